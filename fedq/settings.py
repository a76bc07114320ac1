"""Settings as the user gave them: a dotted key, a value, and the place it came from, so that errors can quote it."""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from fedq.errors import FedqError, reason, together


@dataclass(frozen=True)
class Setting:
    """A value that the user gave, and where: a flag, or `file:line  key = value`."""

    value: Any
    where: str = ""
    from_file: bool = False


Settings: TypeAlias = Mapping[str, Setting]


def read_toml(path: str | Path) -> dict[str, Setting]:
    """The settings of a TOML file, each with its line. FedqError FQ104 if it is not there or not TOML."""
    file = Path(path) / "run.toml" if Path(path).is_dir() else Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
        values = flatten(tomllib.loads(text))
    except (OSError, UnicodeDecodeError) as error:
        why = reason(OSError(error.errno, error.strerror)) if isinstance(error, OSError) else "not text in UTF-8"
        others = [] if file.exists() else map(str, Path(path).parent.glob("*.toml"))
        near = difflib.get_close_matches(str(path), others, n=1)
        hint = f"did you mean `{near[0]}`?" if near else "name a TOML file, such as the run.toml of a run"
        raise FedqError("FQ104", f"cannot read `{file}`: {why}", where=str(path), from_file=True, hint=hint) from error
    except tomllib.TOMLDecodeError as error:
        raise FedqError("FQ104", f"not valid TOML: {error}", where=str(path), from_file=True) from error
    lines = _lines(text)
    return {
        k: Setting(v, f"{path}:{lines.get(k, 1)}  {k} = {json.dumps(v, default=str)}", True) for k, v in values.items()
    }


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def parse_set(texts: Iterable[str]) -> dict[str, Setting]:
    """`--set K=V` flags: V is read as TOML, and as a plain word where that fails."""
    each = together(*(partial(_parsed, text) for text in texts))
    return {key: setting for settings in each for key, setting in settings.items()}


def _parsed(text: str) -> dict[str, Setting]:
    key, equals, value = text.partition("=")
    if not (equals and re.fullmatch(r"[\w.]+", key.strip())):
        hint = "such as --set client.momentum=0.9"
        raise FedqError("FQ106", f"`--set {text}` is not of the form KEY=VALUE", where=f"--set {text}", hint=hint)
    try:
        parsed = tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return {k: Setting(v, f"--set {text}") for k, v in flatten({key.strip(): parsed}).items()}


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys to nested tables."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *tables, last = key.split(".")
        inner = nested
        for table in tables:
            inner = inner.setdefault(table, {})
            if not isinstance(inner, dict):
                raise FedqError(
                    "FQ102", f"`{table}` is a value, so there is no key `{key}`", where=f"{key} = {value!r}"
                )
        if isinstance(inner.get(last), dict):
            raise FedqError("FQ102", f"`{key}` is a section, not a value", where=f"{key} = {value!r}")
        inner[last] = value
    return nested


def _lines(text: str) -> dict[str, int]:
    """The line of each dotted key in TOML text (tomllib does not tell)."""
    section, found = "", {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            section = re.sub(r"[\s\"']", "", header[1]) + "."
        elif pair := re.match(r"\s*([\w.\-\"' ]+?)\s*=", line):
            found[section + re.sub(r"[\s\"']", "", pair[1])] = number
    return found
