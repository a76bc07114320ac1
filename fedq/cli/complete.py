"""Names for the shell's completion, read from the registries' source: importing them would take seconds."""

import ast
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

SOURCES = {
    "strategy": ("strategies/__init__.py", "STRATEGIES", "fedq.strategies"),
    "codec": ("kernels/__init__.py", "CODECS", "fedq.codecs"),
    "client": ("clients/__init__.py", "CLIENTS", "fedq.clients"),
    "model": ("models/__init__.py", "MODELS", "fedq.models"),
    "attack": ("attacks/__init__.py", "ATTACKS", "fedq.attacks"),
    "participation": ("participation/__init__.py", "PARTICIPATION", "fedq.participation"),
    "data": ("data/__init__.py", "DATA", "fedq.data"),
}
KINDS = (
    "strategies",
    "codecs",
    "clients",
    "models",
    "attacks",
    "data",
    "partitions",
    "participation",
    "settings",
    "runs",
)


def names(kind: str) -> list[str]:
    """The names of a kind: the keys of its registry's dict literal, then those of installed packages."""
    file, registry, group = SOURCES[kind]
    tree = ast.parse((Path(__file__).parents[1] / file).read_text(encoding="utf-8"))
    for node in tree.body:
        if (
            isinstance(node, ast.AnnAssign)
            and ast.unparse(node.target) == registry
            and isinstance(node.value, ast.Dict)
        ):
            keys = [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
            return [*map(str, keys), *(point.name for point in entry_points(group=group))]
    raise AssertionError(f"{registry} is not a dict literal")


def of(kind: str) -> Callable[[str], list[str]]:
    """A completion of one kind's names."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names(kind) if name.startswith(incomplete)]

    return complete


def among(*words: str) -> Callable[[str], list[str]]:
    """A completion of these words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def anything(incomplete: str) -> list[str]:
    """What `fedq show` knows."""
    known = dict.fromkeys([*KINDS, *(name for kind in SOURCES for name in names(kind))])
    return [name for name in known if name.startswith(incomplete)]
