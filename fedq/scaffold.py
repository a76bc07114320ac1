"""A new strategy, codec or client: its file, its line in a registry, and the test of its contract.

In fedq's own sources it goes where the others are; anywhere else it becomes a small package with an entry point.
"""

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from fedq.errors import FedqError
from fedq.plugins import GROUPS

FOLDERS = {"strategy": "strategies", "codec": "kernels", "client": "clients"}
REGISTRIES = {"strategy": "STRATEGIES", "codec": "CODECS", "client": "CLIENTS"}


@dataclass(frozen=True)
class New:
    """What was written, and what to type next."""

    files: tuple[Path, ...]
    next: str


def scaffold(kind: str, name: str, root: Path, known: list[str]) -> New:
    """Write a new `kind` called `name` under `root`. FedqError FQ106 for such a name, FQ105 where it is taken."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        hint = "a name is a small letter, then small letters, digits and _"
        raise FedqError("FQ106", f"`{name}` cannot be the name of a {kind}", where=f"fedq new {kind} {name}", hint=hint)
    if name in known:
        raise FedqError(
            "FQ105", f"there is a {kind} `{name}` already", where=f"fedq show {name}", hint="take another name"
        )
    own = (root / "fedq" / FOLDERS[kind] / "__init__.py").is_file() and (root / "tests").is_dir()
    return _in_fedq(kind, name, root) if own else _package(kind, name, root / f"fedq_{name}")


def _in_fedq(kind: str, name: str, root: Path) -> New:
    folder, module = root / "fedq" / FOLDERS[kind], f"fedq.{FOLDERS[kind]}.{name}"
    registry = folder / "__init__.py"
    paths = (folder / f"{name}.py", root / "tests" / f"test_{name}.py")
    _write(paths[0], _filled(kind, kind, name, module))
    _write(paths[1], _filled("test", kind, name, module))
    line = f'    "{name}": {_class(name)}(),' if kind == "codec" else f'    "{name}": "{module}:{_class(name)}",'
    imported = f"from {module} import {_class(name)}" if kind == "codec" else ""
    registry.write_text(registered(registry.read_text(), REGISTRIES[kind], line, imported))
    golden = "   python -m tests.golden.make" if kind == "strategy" else ""
    return New((*paths, registry), f"python -m pytest {paths[1].relative_to(root)}{golden}")


def _package(kind: str, name: str, folder: Path) -> New:
    module = folder.name
    texts = {"pyproject.toml": "pyproject", f"{module}.py": kind, f"test_{name}.py": "test"}
    for path, template in texts.items():
        _write(folder / path, _filled(template, kind, name, module))
    return New(tuple(folder / path for path in texts), f"pip install --editable {folder}   python -m pytest {folder}")


def registered(text: str, registry: str, line: str, imported: str = "") -> str:
    """The text of an `__init__.py` with `line` as the last of a registry, and an import in its order.

    >>> print(registered('A: dict[str, int] = {' + chr(10) + '    "a": 1,' + chr(10) + '}', "A", '    "b": 2,'))
    A: dict[str, int] = {
        "a": 1,
        "b": 2,
    }
    """
    lines = text.split("\n")
    start = next(i for i, old in enumerate(lines) if re.match(rf"{registry}\b.*\{{$", old))
    lines.insert(lines.index("}", start), line)
    if imported:
        lines.insert(next(i for i, old in enumerate(lines) if old.startswith("from ") and old > imported), imported)
    return "\n".join(lines)


def _class(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _filled(template: str, kind: str, name: str, module: str) -> str:
    """A template with its words in capitals replaced."""
    words = {
        "NAME": name,
        "CLASS": _class(name),
        "MODULE": module,
        "KIND": kind,
        "GROUP": GROUPS[kind],
        "CHECKED": _class(name) + ("()" if kind == "codec" else ""),
        "ENTRY": name if kind == "codec" else _class(name),
    }
    text = files("fedq").joinpath("templates", f"{template}.txt").read_text(encoding="utf-8")
    filled = re.sub(r"\b(?:NAME|CLASS|MODULE|GROUP|CHECKED|ENTRY)\b", lambda found: words[found[0]], text)
    filled = re.sub(r"\bKIND\b|(?<=check_)KIND\b", kind, filled)
    if template == "test" and "." in module:  # its import comes first by name
        first, second = re.findall(r"^from .*$", filled, re.MULTILINE)
        filled = filled.replace(f"{first}\n{second}", f"{second}\n{first}")
    if template == "codec" and "." not in module:
        filled += f"\n\n{name} = {_class(name)}()\n"
    return filled


def _write(path: Path, text: str) -> None:
    if path.exists():
        raise FedqError("FQ206", f"`{path}` exists already", where=str(path), hint="take another name, or remove it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        from fedq.errors import reason

        raise FedqError("FQ206", f"cannot write: {reason(error)}", where=str(path)) from error
