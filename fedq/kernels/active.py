"""The kernels in use, as one namespace: native ones where they are installed, else the NumPy specification.

Codecs import this module as `kernels`. The choice is made at the first use; `FEDQ_KERNELS` forces one.
"""

from typing import TYPE_CHECKING, Any

from fedq.kernels import (
    _library,
    _native,
    _native_training,
    _reference,
    _reference_gradient,
    _reference_rans,
    _reference_steps,
    _reference_votes,
)

if TYPE_CHECKING:
    from fedq.kernels._reference import *  # noqa: F403
    from fedq.kernels._reference_gradient import *  # noqa: F403
    from fedq.kernels._reference_rans import *  # noqa: F403
    from fedq.kernels._reference_steps import *  # noqa: F403
    from fedq.kernels._reference_votes import *  # noqa: F403


_NATIVE = (_native, _native_training)
_SPECIFICATION = (_reference, _reference_gradient, _reference_rans, _reference_steps, _reference_votes)


def isa() -> str:
    """`numpy`, `portable`, `avx2` or `avx512`."""
    found = _library.library()
    return found.isa if found else "numpy"


def __getattr__(name: str) -> Any:
    native = _library.library() is not None
    for module in _NATIVE + _SPECIFICATION if native else _SPECIFICATION:
        if hasattr(module, name):
            found = globals()[name] = getattr(module, name)
            return found
    raise AttributeError(f"there is no kernel `{name}`")
