"""Whether experiments tell the truth: many of them where it is known, in models of noise and in the simulator."""
