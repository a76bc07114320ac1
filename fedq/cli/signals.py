"""The signals by which people and systems end a command: Ctrl-C, SIGTERM, a closed terminal."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def heard(handle: Callable[[int, FrameType | None], Any]) -> Iterator[dict[int, Any]]:
    """Within it `handle` has them; yields who gets them after it. What `nohup` keeps away stays away."""
    ending = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        ending.append(signal.SIGHUP)
    after: dict[int, Any] = {number: signal.signal(number, handle) for number in ending}
    try:
        yield after
    finally:
        for number, handler in after.items():
            signal.signal(number, handler)
