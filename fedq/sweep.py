"""Many runs of one config: every combination of what a grid varies. A run is known by its hash."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from fedq.config import NOT_HASHED, RunConfig, over, resolve
from fedq.errors import FedqError
from fedq.finding import runs_in
from fedq.runs import Run
from fedq.settings import Setting, flatten, parse_set, read_toml


@dataclass(frozen=True)
class Point:
    """One combination: what it varies, the config of its run, and the words after `fedq` that run it."""

    varied: dict[str, Any]
    config: RunConfig
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """What it varies, in few words."""
        return " ".join(_short(key, value) for key, value in self.varied.items())

    @property
    def command(self) -> str:
        """The command that runs it, to paste into a shell."""
        return shlex.join(("fedq", *self.words))


def points(config: Path | None, sets: Sequence[str], grids: Sequence[str], out: Path) -> list[Point]:
    """Every combination of `grids` over a config file and `--set` flags, in order, each once.

    FedqError FQ106 for a malformed grid, and what `resolve` raises for a combination that cannot be run.
    """
    axes = parse_grid(grids)
    if alike := sorted(NOT_HASHED & set(axes)):
        hint = "give each its own --out, or its own data.name"
        raise FedqError("FQ106", f"`{alike[0]}` makes no other run of a config", where=f"--grid {alike[0]}", hint=hint)
    file = read_toml(config) if config else {}
    fixed, start = parse_set(sets), [str(config)] if config else []
    found: dict[str, Point] = {}
    for varied in combinations(axes):
        flags = [f"{key}={word(value)}" for key, value in varied.items()]
        given = fixed | {k: Setting(v, f"--grid {k}={word(v)}") for k, v in flatten(varied).items()}
        resolved = resolve(over(file, given))
        told = [word for flag in (*sets, *flags) for word in ("--set", flag)]
        words = ("simulate", *start, *told, *(("--out", str(out)) if out != Path("runs") else ()))
        found.setdefault(resolved.hash, Point(varied, resolved, words))
    return list(found.values())


def parse_grid(texts: Iterable[str]) -> dict[str, list[Any]]:
    """`KEY=A,B,C` flags: each value is read as TOML, and as a plain word where that fails; `0..2` is 0, 1, 2.

    >>> parse_grid(["seed=0..2", "codec=binary,ternary", "model.hidden=[8],[16,8]"])
    {'seed': [0, 1, 2], 'codec': ['binary', 'ternary'], 'model.hidden': [[8], [16, 8]]}
    """
    axes: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, listed = text.partition("=")
        words = re.findall(r"(?:\[[^\]]*\]|[^,\[])+", listed)
        if not (equals and words and re.fullmatch(r"[\w.-]+", key.strip())):
            hint = "such as --grid strategy=fedavg,fedvote --grid seed=0..2"
            raise FedqError("FQ106", f"`--grid {text}` is not of the form KEY=A,B,C", where=f"--grid {text}", hint=hint)
        if key.strip() in axes:
            hint = "name all its values in one"
            raise FedqError("FQ106", f"two grids of `{key.strip()}`", where=f"--grid {text}", hint=hint)
        axes[key.strip()] = [value for word in words for value in _values(key.strip(), word.strip())]
        if not axes[key.strip()]:
            hint = "a span goes upwards, such as 0..2"
            raise FedqError("FQ106", f"`--grid {text}` has no value", where=f"--grid {text}", hint=hint)
    return axes


def combinations(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every choice of one value an axis, as dotted keys; a value that is a table sets keys of its own.

    >>> combinations({"seed": [0, 1], "method": [{"codec": "sign"}]})
    [{'seed': 0, 'codec': 'sign'}, {'seed': 1, 'codec': 'sign'}]
    """
    choices = [[v if isinstance(v, Mapping) else {name: v} for v in values] for name, values in axes.items()]
    return [{k: v for part in chosen for k, v in flatten(part).items()} for chosen in product(*choices)]


def runs_by_hash(out: Path) -> dict[str, Run]:
    """The runs in a folder by the hash of their config, asked for and resolved; of several that which went furthest.

    A run that was begun with a goal (`--until`) is no point of a grid: it may be done before its last round.
    """
    found: dict[str, Run] = {}
    for run in runs_in(out):
        if run.damage() or run.about.get("until"):
            continue
        for hash_ in filter(None, (run.about.get("config_hash"), run.about.get("asked_hash"))):
            if hash_ not in found or _progress(run) > _progress(found[hash_]):
                found[hash_] = run
    return found


def begun(config: RunConfig, known: Mapping[str, Run]) -> Run | None:
    """The run of this config that is done, is being played, or can go on; None where it is to begin."""
    run = known.get(config.hash)
    if run is None or run.config["data"].get("dir", "") != config.top.data.dir:
        return None
    return run if run.status in ("done", "running") or list(run.path.glob("checkpoints/*.npz")) else None


def _progress(run: Run) -> tuple[bool, int]:
    return run.status == "done", len(run.records())


def _values(key: str, word: str) -> list[Any]:
    if span := re.fullmatch(r"(\d+)(\.\.|-)(\d+)", word):
        if span[2] == "-":
            where, hint = f"--grid {key}={word}", f"a span is {key}={span[1]}..{span[3]}"
            raise FedqError("FQ106", f"`{word}` is no number", where=where, hint=hint)
        return list(range(int(span[1]), int(span[3]) + 1))
    return [setting.value for setting in parse_set([f"{key}={word}"]).values()]


def word(value: Any) -> str:
    """A value as `--set` reads it.

    >>> word([True, 8, "sign"])
    '[true, 8, sign]'
    """
    if isinstance(value, bool):
        return str(value).lower()
    return "[" + ", ".join(map(word, value)) + "]" if isinstance(value, list | tuple) else str(value)


def _short(key: str, value: Any) -> str:
    plain = key.removesuffix(".name").rpartition(".")[2]
    return word(value) if plain in ("strategy", "codec", "partition", "data", "model") else f"{plain} {word(value)}"
