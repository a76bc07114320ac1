"""Look a name up in one of fedq's registries, or among the entry points of other packages.

A registry is a plain dict literal in its folder's `__init__.py`. A value may be a lazy `"module:attribute"` string, so
that listing names imports nothing heavy.
"""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

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
