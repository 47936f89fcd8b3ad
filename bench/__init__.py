"""Stands on top: a simulated engine over HTTP, load generation, the demo and the studies."""
