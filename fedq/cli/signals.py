"""The signals by which people and systems end a command: Ctrl-C, SIGTERM, a closed terminal."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


def hear(handle: Callable[[int, FrameType | None], Any]) -> dict[int, Any]:
    """Let `handle` have them from now on; returns who had them. What `nohup` keeps away stays away."""
    ending = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        ending.append(signal.SIGHUP)
    return {number: signal.signal(number, handle) for number in ending}


@contextmanager
def as_interrupts() -> Iterator[None]:
    """Within it, each of them raises KeyboardInterrupt."""
    before = hear(signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
