"""Whether the simulator tells the truth: against the live proxy and engine over HTTP, and against what real GPUs measured."""
