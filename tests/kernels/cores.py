"""The instruction sets of this machine, and what it means that a native kernel agrees with its specification."""

import numpy as np
import pytest

from fedq.kernels import _library, _native, _reference

FOUND = _library.library() or (_library.Library(path) if (path := _library.installed()) else None)
ISAS = [isa for isa in ("portable", "avx2", "avx512") if FOUND and FOUND.force(isa)]


def same(a, b):
    if isinstance(a, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b


def alike(one, other):
    """The same bits, where a NaN is a NaN."""
    return all(same(np.where(np.isnan(a), 0, a), np.where(np.isnan(b), 0, b)) and same(np.isnan(a), np.isnan(b))
               for a, b in zip(one, other, strict=True))  # fmt: skip


def each_core():
    """Every instruction set in turn, in use until the next."""
    with pytest.MonkeyPatch.context() as monkey:
        monkey.setattr(_native, "library", lambda: FOUND)
        try:
            for isa in ISAS:
                assert FOUND.force(isa)
                yield isa
        finally:
            if FOUND:
                FOUND.force("auto")


def unaligned(x):
    """A contiguous copy whose address is no multiple of anything, with guard bytes that nobody may read as values."""
    room = np.full(x.nbytes + 64, 0xAA, np.uint8)
    start = -room.ctypes.data % 64 + 1 if x.nbytes else 0
    view = room[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def agree(name, *arguments, threads=True, spec=_reference):
    expected = getattr(spec, name)(*arguments)
    native = getattr(_native, name)
    assert same(native(*arguments), expected), name
    moved = [unaligned(a) if isinstance(a, np.ndarray) else a for a in arguments]
    assert same(native(*moved), expected), f"{name}, unaligned"
    if threads:
        assert same(native(*arguments, threads=2), expected), f"{name}, two threads"
    return expected
