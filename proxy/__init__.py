"""Waits and moves bytes: the data plane, its live scheduler and its control plane."""
