"""What policies would have cost and given on traffic that is known: traces and drawn loads in simulated time."""
