"""Listings for `fedq show`: registries with their first lines of documentation, settings of one entry, one run."""

import difflib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

from pydantic.fields import FieldInfo

from fedq.data import DATA
from fedq.data.partition import PARTITIONS
from fedq.errors import FedqError
from fedq.finding import runs_in
from fedq.plugins import find, names
from fedq.report.screen import line
from fedq.report.tables import table
from fedq.report.units import duration, share, size
from fedq.runs import Run, not_a_run
from fedq.sections import common

Rows = list[dict[str, Any]]


def listing(kind: str) -> Rows:
    """What there is of one kind: names and one line each, as JSON values."""
    return KINDS[kind]()


def listing_text(kind: str) -> str:
    """The listing as text; on a terminal, what does not fit beside the names goes below itself."""
    width = get_terminal_size().columns if sys.stdout.isatty() else None
    return table([TEXT.get(kind, _as_text)(row) for row in listing(kind)], width)


def pages(name: str) -> list[dict[str, Any]]:
    """What is called so: one page a kind, with settings and defaults; FedqError FQ101 if nothing is.

    What stands behind a colon (`inverse:6`, `dirichlet:0.5`) makes no other page.
    """
    asked, name = name, name.partition(":")[0]
    if "/" in asked:
        raise not_a_run(asked)
    found = [
        _page(kind, name, find(name))
        for kind, (registry, find) in _registries().items()
        if name in names(kind, registry)
    ]
    found += [
        {"kind": kind, "name": name, "about": str(row["about"]), "brings": {}, "settings": {}}
        for kind, rows in (("data", _data()), ("partition", _partitions()))
        for row in rows
        if row[kind] == name
    ]
    if found:
        return found
    known = {
        *KINDS,
        *PARTITIONS,
        *DATA,
        *(n for kind, (registry, _) in _registries().items() for n in names(kind, registry)),
    }
    near = difflib.get_close_matches(name.lower(), sorted(known), n=1)
    kinds = f"fedq show KIND lists what there is: {', '.join(KINDS)}"
    raise FedqError(
        "FQ101",
        f"nothing is called `{asked}`, and it is not a run",
        where=f"fedq show {asked}",
        hint=f"did you mean `{near[0]}`? {kinds}" if near else kinds,
    )


def _page(kind: str, name: str, found: Any) -> dict[str, Any]:
    options = getattr(found, "Options", None)
    fields = options.model_fields if options else {}
    doc, line_ = inspect.getdoc(found) or "", _about(found)
    return {
        "kind": kind,
        "name": name,
        "about": doc if doc.startswith(line_) else f"{line_}\n\n{doc}",
        "brings": dict(getattr(found, "defaults", {})),
        "settings": {key: _field(field) for key, field in fields.items()},
    }


def _settings() -> Rows:
    """Those that every run has; what is a part's is on the part's page."""
    return [{"setting": key, **_field(field)} for key, field in common().items()]


def _field(field: FieldInfo) -> dict[str, Any]:
    return {"default": field.get_default(call_default_factory=True), "about": field.description or ""}


def known(kind: str) -> list[str]:
    """The names of a kind, such as "strategy"."""
    return names(kind, _registries()[kind][0])


def page_text(entry: Mapping[str, Any]) -> str:
    """A page as text."""
    rows = [
        {"setting": f"{entry['kind']}.{k}", "default": _plain(s["default"]), "about": s["about"]}
        for k, s in entry["settings"].items()
    ]
    brings = [f"brings  {k} = {_plain(v)}" for k, v in entry["brings"].items()]
    return "\n".join(
        [
            f"{entry['kind']} {entry['name']}",
            "",
            entry["about"],
            "",
            *brings,
            *([table(rows)] if rows else ["no settings"]),
        ]
    )


def run_page(run: Run) -> str:
    """A run: its state, settings, last rounds and totals."""
    totals, about, lines = run.totals(), run.about, run.records()
    head = f"{run.path}   {run.status}   {totals['rounds']} of {run.config['rounds']} rounds"
    up, down = size(totals["up_bytes"] or 0), size(totals["down_bytes"] or 0)
    sums = f"up {up}   down {down}   {duration(totals['seconds'] or 0)}"
    facts = [
        f"{k:<10} {v}"
        for k, v in (
            ("command", about.get("command")),
            ("started", about.get("started")),
            ("error", about.get("error")),
        )
        if v
    ]
    deployed = any(m["deployed_accuracy"] is not None for m in lines)
    shown = [line(m, run.config["rounds"], deployed=deployed) for m in lines[-10:]]
    return "\n".join([head, *facts, sums, "", (run.path / "run.toml").read_text().rstrip(), "", *shown])


def _registries() -> dict[str, tuple[Mapping[str, Any], Callable[[str], Any]]]:
    from fedq.attacks import ATTACKS, attack
    from fedq.clients import CLIENTS, client
    from fedq.kernels import CODECS, codec
    from fedq.models import MODELS, model
    from fedq.participation import PARTICIPATION, participation
    from fedq.strategies import STRATEGIES, strategy

    return {
        "strategy": (STRATEGIES, strategy),
        "client": (CLIENTS, client),
        "model": (MODELS, model),
        "codec": (CODECS, codec),
        "attack": (ATTACKS, attack),
        "participation": (PARTICIPATION, participation),
    }


def _entries(kind: str) -> Rows:
    registry, find = _registries()[kind]
    rows = []
    for name in names(kind, registry):
        found = find(name)
        row = {kind: name, "about": _about(found)}
        if kind == "codec":
            size_ = {"bytes_of_10000": found.nbytes(10_000), "at_most": len(found.lengths(10_000)) > 1}
            row = {kind: name, **size_, "about": row["about"]}
        if kind == "strategy":
            row = {kind: name, "codec": found.defaults.get("codec", "float32"), "about": row["about"]}
        rows.append(row)
    return rows


def _about(found: Any) -> str:
    """One line: a codec's own, as several may be of one class; else the first of the docstring."""
    own = getattr(found, "about", None)
    return own if isinstance(own, str) else (inspect.getdoc(found) or "").split("\n")[0]


def _data() -> Rows:
    known = {
        "digits": "1,797 handwritten digits of 8 x 8, embedded",
        "mnist": "hub: ylecun/mnist, 70,000 digits of 28 x 28",
        "fashion_mnist": "hub: zalando-datasets/fashion_mnist, 70,000 pieces of clothing of 28 x 28",
        "cifar10": "hub: uoft-cs/cifar10, 60,000 colour photographs of 32 x 32",
    }
    rows = [{"data": n, "about": known.get(n) or _about(find("data set", n, DATA))} for n in names("data set", DATA)]
    return [
        *rows,
        {
            "data": "OWNER/NAME",
            "about": "any labelled images or texts of the hub; --data-dir PATH reads a local folder",
        },
        {"data": "texts", "about": "any data set of the hub or a folder, with --text-column and --label-column"},
    ]


def _partitions() -> Rows:
    return [{"partition": name, "about": about} for name, about in PARTITIONS.items()]


SHOWN = ("accuracy", "up_bytes", "down_bytes", "seconds")


def _runs() -> Rows:
    rows = []
    for run in runs_in(Path("runs"), below=True):
        try:
            totals = run.totals()
        except FedqError:
            rows.append({"run": str(run.path), "status": "damaged", "rounds": 0, "of": 0} | dict.fromkeys(SHOWN))
            continue
        shown = {k: totals.get(k) for k in SHOWN}
        rows.append(
            {
                "run": str(run.path),
                "status": totals["status"],
                "rounds": totals["rounds"],
                "of": run.config["rounds"],
                **shown,
            }
        )
    return rows


def _as_text(row: Mapping[str, Any]) -> dict[str, str]:
    return {k: _plain(v) for k, v in row.items()}


def _run_text(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "run": row["run"],
        "status": row["status"],
        "rounds": f"{row['rounds']}/{row['of']}",
        "accuracy": share(row["accuracy"]),
        "up": size(row["up_bytes"] or 0),
    }


def _codec_text(row: Mapping[str, Any]) -> dict[str, str]:
    most = "up to " if row["at_most"] else ""
    return {"codec": row["codec"], "bytes of 10,000": f"{most}{row['bytes_of_10000']:,}", "about": row["about"]}


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return str(list(value) if isinstance(value, tuple) else value)  # as --set takes them


KINDS: dict[str, Callable[[], Rows]] = {
    "strategies": lambda: _entries("strategy"),
    "codecs": lambda: _entries("codec"),
    "clients": lambda: _entries("client"),
    "models": lambda: _entries("model"),
    "attacks": lambda: _entries("attack"),
    "data": _data,
    "partitions": _partitions,
    "participation": lambda: _entries("participation"),
    "settings": _settings,
    "runs": _runs,
}
TEXT: dict[str, Callable[[Mapping[str, Any]], dict[str, str]]] = {"runs": _run_text, "codecs": _codec_text}
