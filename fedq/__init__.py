"""fedq: federated learning over a wire of real packed bytes.

>>> import fedq
>>> cfg = fedq.make_config(strategy="fedvote", rounds=3)
>>> cfg.top.rounds
3
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "FedqError": "fedq.errors",
    "Options": "fedq.options",
    "Run": "fedq.runs",
    "RunConfig": "fedq.config",
    "codec": "fedq.kernels",
    "compare": "fedq.report.comparison",
    "load_config": "fedq.config",
    "load_runs": "fedq.report.frames",
    "make_config": "fedq.config",
    "open_run": "fedq.runs",
    "resume": "fedq.simulation",
    "simulate": "fedq.simulation",
}

__all__ = [
    "FedqError",
    "Options",
    "Run",
    "RunConfig",
    "__version__",
    "codec",
    "compare",
    "load_config",
    "load_runs",
    "make_config",
    "open_run",
    "resume",
    "simulate",
]


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used, so that `fedq --help` needs neither torch nor Flower."""
    if name in __all__:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module `fedq` has no attribute `{name}`")


def __dir__() -> list[str]:
    return __all__
