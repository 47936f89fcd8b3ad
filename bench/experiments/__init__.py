"""Experiments in simulated time: what a switchback would have found, in seconds instead of days."""

from bench.experiments.simulated import simulated_blocks

__all__ = ["simulated_blocks"]
