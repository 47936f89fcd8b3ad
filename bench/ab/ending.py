"""SIGTERM as Ctrl-C: what was started is stopped in order, instead of being left behind by a process that is simply gone."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine


def run(work: Coroutine[None, None, None]) -> None:
    """Run it to its end, or until this process is told to end.

    Raises:
        KeyboardInterrupt: it was told to, by either signal; all that the work had opened is closed.
    """
    try:
        asyncio.run(_until_told(work))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _until_told(work: Coroutine[None, None, None]) -> None:
    task = asyncio.ensure_future(work)
    if threading.current_thread() is threading.main_thread():  # others cannot have signals
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task
