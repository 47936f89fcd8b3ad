"""A neighbour on the GPU that no proxy sees: matrix products in a duty cycle, told when to begin and to stop by lines."""

from __future__ import annotations

import sys
import threading
import time
from importlib import import_module
from typing import Any

import click

from bench.proof.companions import READY

CYCLE_S = 0.1


@click.command()
@click.option("--duty", type=click.FloatRange(0, 1, min_open=True), default=0.3, show_default=True, help="Part of the time.")
@click.option("--size", default=4096, show_default=True, help="Rows and columns of the matrices.")
def main(duty: float, size: int) -> None:
    """Lines: `go` and `stop`; the end of standard input ends it."""
    try:
        torch = import_module("torch")
    except ImportError as error:
        _cannot(f"no torch: {error}")
    if not torch.cuda.is_available():
        _cannot("torch sees no CUDA device")
    matrix = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    (matrix @ matrix).sum().item()
    going, ended = threading.Event(), threading.Event()
    threading.Thread(target=_listen, args=(going, ended), daemon=True).start()
    print(READY, flush=True)
    while not ended.is_set():
        if going.wait(CYCLE_S):
            _cycle(torch, matrix, duty)


def _cannot(why: str) -> None:
    print(why, flush=True)
    sys.exit(1)


def _listen(going: threading.Event, ended: threading.Event) -> None:
    for line in sys.stdin:
        if line.strip() == "go":
            going.set()
        else:
            going.clear()
    going.clear()
    ended.set()


def _cycle(torch: Any, matrix: Any, duty: float) -> None:
    began = time.monotonic()
    while time.monotonic() < began + duty * CYCLE_S:
        matrix @ matrix
        torch.cuda.synchronize()
    time.sleep(max(began + CYCLE_S - time.monotonic(), 0.0))


if __name__ == "__main__":
    main()
