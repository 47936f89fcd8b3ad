"""Whether a request's joules are true on a real GPU: loads, a separate record of the device, and verdicts on both."""
