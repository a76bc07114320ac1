"""Listings for `fedq show`: registries with their first lines of documentation, settings of one entry, one run."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedq.errors import FedqError
from fedq.plugins import names
from fedq.report.screen import line
from fedq.report.units import duration, share, size
from fedq.runs import Run, open_run

Rows = list[dict[str, str]]


def listing(kind: str) -> Rows:
    """What there is of one kind: names and one line each."""
    return KINDS[kind]()


def table(rows: Rows) -> str:
    """Rows as aligned text, the first column first."""
    if not rows:
        return "none"
    keys = list(rows[0])
    widths = [max(len(k), *(len(r[k]) for r in rows)) for k in keys]
    texts = [keys, *([r[k] for k in keys] for r in rows)]
    return "\n".join("  ".join(t.ljust(w) for t, w in zip(text, widths, strict=True)).rstrip() for text in texts)


def page(name: str) -> dict[str, Any]:
    """What one strategy, client, model or codec is, with settings and defaults; FedqError FQ101 if there is none."""
    for kind, (registry, find) in _registries().items():
        if name in names(kind, registry):
            found = find(name)
            options = getattr(found, "Options", None)
            fields = options.model_fields if options else {}
            settings = {
                k: {"default": f.get_default(call_default_factory=True), "about": f.description or ""}
                for k, f in fields.items()
            }
            brings = dict(getattr(found, "defaults", {}))
            doc, line_ = inspect.getdoc(found) or "", _about(found)
            return {
                "kind": kind,
                "name": name,
                "about": doc if doc.startswith(line_) else f"{line_}\n\n{doc}",
                "brings": brings,
                "settings": settings,
            }
    known = {*KINDS, *(n for kind, (registry, _) in _registries().items() for n in names(kind, registry))}
    near = difflib.get_close_matches(name.lower(), sorted(known), n=1)
    kinds = f"fedq show KIND lists what there is: {', '.join(KINDS)}"
    raise FedqError(
        "FQ101",
        f"nothing is called `{name}`, and it is not a run",
        where=f"fedq show {name}",
        hint=f"did you mean `{near[0]}`? {kinds}" if near else kinds,
    )


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
            most = "" if len(found.lengths(10_000)) == 1 else "up to "
            row = {kind: name, "bytes of 10,000": f"{most}{found.nbytes(10_000):,}", "about": row["about"]}
        if kind == "strategy":
            row = {kind: name, "codec": found.defaults.get("codec", "float32"), "about": row["about"]}
        rows.append(row)
    return rows


def _about(found: Any) -> str:
    """One line: a codec's own, as several may be of one class; else the first of the docstring."""
    own = getattr(found, "about", None)
    return own if isinstance(own, str) else (inspect.getdoc(found) or "").split("\n")[0]


def _data() -> Rows:
    return [
        {"data": "digits", "about": "1,797 handwritten digits of 8 x 8, embedded"},
        {"data": "mnist", "about": "hub: ylecun/mnist, 70,000 digits of 28 x 28"},
        {"data": "fashion_mnist", "about": "hub: zalando-datasets/fashion_mnist, 70,000 pieces of clothing of 28 x 28"},
        {"data": "cifar10", "about": "hub: uoft-cs/cifar10, 60,000 colour photographs of 32 x 32"},
        {"data": "OWNER/NAME", "about": "any labelled image data set of the hub; --data-dir PATH reads a local folder"},
    ]


def _partitions() -> Rows:
    from fedq.data.partition import PARTITIONS

    return [{"partition": name, "about": about} for name, about in PARTITIONS.items()]


def _runs() -> Rows:
    rows = []
    for file in sorted(Path("runs").glob("**/run.toml")):
        run = open_run(file.parent)
        totals = run.totals()
        rows.append(
            {
                "run": str(run.path),
                "status": str(totals["status"]),
                "rounds": f"{totals['rounds']}/{run.config['rounds']}",
                "accuracy": share(totals.get("accuracy")),
                "up": size(totals["up_bytes"] or 0),
            }
        )
    return rows


def _plain(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


KINDS: dict[str, Callable[[], Rows]] = {
    "strategies": lambda: _entries("strategy"),
    "codecs": lambda: _entries("codec"),
    "clients": lambda: _entries("client"),
    "models": lambda: _entries("model"),
    "attacks": lambda: _entries("attack"),
    "data": _data,
    "partitions": _partitions,
    "participation": lambda: _entries("participation"),
    "runs": _runs,
}
