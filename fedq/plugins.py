"""Look a name up in one of fedq's registries, or among the entry points of other packages.

A registry is a plain dict literal in its folder's `__init__.py`. A value may be a lazy `"module:attribute"` string, so
that listing names imports nothing heavy.
"""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any
from warnings import catch_warnings, simplefilter

from fedq.errors import FedqError, nearest

GROUPS = {
    "codec": "codecs",
    "strategy": "strategies",
    "client": "clients",
    "model": "models",
    "data set": "data",
    "attack": "attacks",
    "participation": "participation",
}


def names(kind: str, registry: Mapping[str, Any]) -> list[str]:
    """Every known name of a kind, ours first."""
    others = (point.name for point in entry_points(group=f"fedq.{GROUPS[kind]}"))
    return [*registry, *sorted(set(others) - set(registry))]


def find(kind: str, name: str, registry: Mapping[str, Any]) -> Any:
    """What `name` stands for; FedqError FQ101 with the nearest known name if nothing does."""
    if name in registry:
        found = registry[name]
        if isinstance(found, str):
            module, attribute = found.split(":")
            return getattr(import_module(module), attribute)
        return found
    for point in entry_points(group=f"fedq.{GROUPS[kind]}", name=name):
        return point.load()
    raise FedqError("FQ101", f"unknown {kind} `{name}`", hint=nearest(name, names(kind, registry)))


def extra(module: str, group: str) -> Any:
    """A module that comes with an extra of fedq. FedqError FQ206 if it is not installed."""
    try:
        with catch_warnings():
            simplefilter("ignore")  # what such packages say to their own developers
            return import_module(module)
    except ImportError as error:
        raise FedqError(
            "FQ206", f"this needs a package that is not installed: {error}", hint=f'pip install "fedq[{group}]"'
        ) from error
