"""A simulated inference server over real HTTP: `server.py` puts it together, `driver.py` runs the model by real time."""

from bench.engine.server import SimulatedServer

__all__ = ["SimulatedServer"]
