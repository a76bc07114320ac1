"""Finding and loading the native kernels: the library of the installed distribution, or none.

A library looked up beside `__file__` is lost in an editable install, from the repository root and in a Flower bundle,
so the distribution's own list of files says whether there is one. One that is listed and cannot be loaded is an error.
"""

import ctypes
import functools
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, final

from fedq.errors import FedqError, nearest

CHOICES = ("auto", "numpy", "portable", "avx2", "avx512")
_P, _N, _I, _F, _S = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int32, ctypes.c_float, ctypes.c_int64
_SIGNATURES: dict[str, tuple[Any, ...]] = {  # result, parameters; those of native/kernels.def
    "encode_bernoulli": (None, _P, _N, _N, _P, _N, _N),
    "encode_binary": (None, _P, _N, _N, _P, _N, _N),
    "encode_sign": (None, _P, _P, _N, _N),
    "encode_ternary": (None, _P, _F, _N, _N, _P, _P, _N, _N),
    "encode_ternary_threshold": (None, _P, _F, _P, _P, _N, _N),
    "encode_rows": (None, _P, _N, _P, _P, _I, _P, _N, _N),
    "largest": (ctypes.c_uint32, _P, _N, _N),
    "moments": (None, _P, _N, _P),
    "decode_binary": (None, _P, _P, _N, _N),
    "decode_binary_i8": (None, _P, _P, _N, _N),
    "decode_ternary": (None, _P, _P, _P, _N, _N),
    "decode_ternary_i8": (None, _P, _P, _P, _N, _N),
    "pack_base3": (None, _P, _P, _N, _P, _N, _N),
    "pack_base3_i8": (None, _P, _N, _P, _N, _N),
    "unpack_base3": (_I, _P, _N, _P, _P, _N, _N),
    "count_ones": (_N, _P, _N),
    "pack_mask_sign": (_N, _P, _P, _N, _P, _P),
    "unpack_mask_sign": (None, _P, _P, _N, _N, _P, _P),
    "rans_encode": (_N, _P, _N, _N, _P, _P, _P),
    "rans_decode": (_N, _P, _N, _N, _P, _N),
    "disjoint": (_I, _P, _P, _N),
    "qsgd_encode": (None, _P, _I, _N, _N, _P, _P, _N, _N),
    "qsgd_decode": (None, _P, _P, _I, _P, _N, _N),
    "qsgd_add": (None, _P, _P, _I, _F, _P, _N, _N),
    "qsgd_valid": (_I, _P, _N, _I),
    "topk": (_I, _P, _N, _N, _P, _P),
    "vote_counts": (None, _P, _N, _P, _I, _N, _N),
    "vote_majority": (None, _P, _N, _P, _P, _N, _N),
    "vote_plurality": (None, _P, _P, _N, _P, _P, _N, _N),
    "vote_weighted": (None, _P, _N, _P, _P, _N, _N),
    "vote_weighted_i32": (None, _P, _N, _P, _P, _N, _N),
    "vote_weighted_add": (None, _P, _N, _P, _P, _N, _N),
    "planes_add": (None, _P, _N, _P, _I, _N, _N),
    "chain_room": (_N, _P, _N, _N, _N),
    "chain_gradient": (_I, _P, _N, _P, _N, _N, _N, _P, _S, _P, _S, _P, _S, _P, _P, _P),
    "step": (None, _P, _P, _P, _P, _P, _P, _F, _F, _N),
    "chain_descent": (_I, _P, _N, _P, *[_N] * 4, _P, _P, _N, *[_P] * 6, _F, _F, _F, _P, _P),
    "tanh_half": (None, _P, _P, _N),
    "random_words": (None, _P, _P, _N, _P, _N),
    "floor_read": (_N, _P, _N),
    "floor_write": (None, _P, _N),
    "planes_sum": (None, _P, _P, _I, _I, _F, _I, _P, _N, _N),
}


@final
class Library:
    """The loaded kernels by name; calls release the GIL."""

    def __init__(self, path: Path) -> None:
        self.path = path
        loaded = ctypes.CDLL(str(path))
        self._isa, self._force = loaded.fedq_isa, loaded.fedq_force
        self._isa.restype = ctypes.c_char_p
        self.call: dict[str, Callable[..., Any]] = {}
        for name, (result, *parameters) in _SIGNATURES.items():
            function = getattr(loaded, f"fedq_{name}")
            function.restype, function.argtypes = result, parameters
            self.call[name] = function

    @property
    def isa(self) -> str:
        """`portable`, `avx2` or `avx512`."""
        return str(self._isa().decode())

    def force(self, isa: str) -> bool:
        """Use this instruction set (`auto`: the best); False where the machine lacks it. Not while kernels run."""
        return int(self._force(isa.encode())) == 0


def installed() -> Path | None:
    """The library of the installed distribution, if it has one."""
    try:
        files = metadata.files("fedq") or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(f.locate())) for f in files if f.stem in ("libfedq_kernels", "fedq_kernels")), None)


@functools.cache
def library() -> Library | None:
    """The kernels that `FEDQ_KERNELS` asks for; None means NumPy. FedqError where they cannot be had."""
    choice = os.environ.get("FEDQ_KERNELS") or "auto"
    if choice not in CHOICES:
        raise FedqError("FQ103", f"unknown kernels `{choice}`", where="FEDQ_KERNELS", hint=nearest(choice, CHOICES))
    path = None if choice == "numpy" else installed()
    if path is None:
        if choice in ("auto", "numpy"):
            return None
        raise FedqError("FQ206", f"no native kernels are installed, and `{choice}` ones were asked for",
                        where="FEDQ_KERNELS", hint="install fedq where a C++ compiler is")  # fmt: skip
    try:
        found = Library(path)
    except (OSError, AttributeError) as error:
        raise FedqError("FQ206", f"the native kernels are installed but cannot be loaded: {error}", where=str(path),
                        hint="install fedq again, or set FEDQ_KERNELS=numpy") from error  # fmt: skip
    if not found.force(choice):
        raise FedqError("FQ206", f"this machine cannot run `{choice}` kernels", where="FEDQ_KERNELS", hint="auto")
    return found
