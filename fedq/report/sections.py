"""The report of runs, part by part: claim, figures, table, what strategies show, ledgers, settings, provenance."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fedq.report import figures
from fedq.report.comparison import Comparison
from fedq.report.curves import Group
from fedq.report.html import Raw, code, folded, page, section, table, text
from fedq.report.plots import claim, task
from fedq.report.units import duration, share, size
from fedq.runs import Run
from fedq.settings import flatten

ROWS = 1500  # of all ledgers together: more would make the page too large


def report(comparison: Comparison, defaults: Mapping[str, Any], repeat: Callable[[Run], str]) -> str:
    """The page. `defaults` are the settings that a single group's are compared with; `repeat` gives a run's command."""
    groups, runs = comparison.groups, [run for group in comparison.groups for run in group.runs]
    title, *rest = headline(comparison)
    many = max(len(g.by_seed) for g in groups) > 1
    body = [
        f"<h1>{text(title)}</h1>",
        *(f"<p>{text(line)}</p>" for line in rest),
        '<p class="quiet">Bytes are the lengths of payloads that were sent.'
        + (" Lines are means over seeds, bands reach from the least to the most." if many else "")
        + f" The dashed line is an accuracy of {comparison.target:.3g}.</p>",
        figures.key(groups),
        '<div class="figures">' + "\n".join(figures.curves(comparison)) + "</div>",
        section(
            "What it took", table(comparison.shown()), *(f'<p class="quiet">{text(n)}</p>' for n in comparison.notes)
        ),
        section("Privacy", *_privacy(groups)),
        section("What the strategy saw", *figures.of_strategies(groups)),
        section("Ledger of every round", *_ledgers(groups, ROWS // len(runs))),
        section("Settings", *_settings(groups, defaults)),
        section("Where it comes from", *(_provenance(group, run, repeat) for group in groups for run in group.runs)),
    ]
    return page(title, body)


def headline(comparison: Comparison) -> list[str]:
    """The claim, and the task below it."""
    if len(comparison.groups) > 1:
        return claim(comparison).split("\n")
    (row,), (group,) = comparison.rows(), comparison.groups
    reached = f"{group.label}: {row['accuracy']:.1%} with {size(row['up_bytes'])} uploaded in {row['rounds']} rounds"
    return [reached, task(comparison)]


def _privacy(groups: Sequence[Group]) -> Iterator[str]:
    for group in groups:
        for run in group.runs:
            spent = [m for m in run.records() if m.get("epsilon") is not None]
            if spent:
                delta = spent[-1].get("delta")
                at = f" at delta = {delta:g}" if delta is not None else ""
                said = f"{group.label}, seed {run.config['seed']}: epsilon = {spent[-1]['epsilon']:.4g}{at}"
                yield f"<p>{text(said)} after {spent[-1]['round']} rounds.</p>"
            if promise := run.about.get("privacy"):
                yield f"<p>{text(f'Promised: {promise}.')}</p>"
    yield from figures.epsilon(groups)


def _ledgers(groups: Sequence[Group], most: int) -> Iterator[str]:
    for group in groups:
        for run in group.runs:
            lines = run.records()
            kept = figures.thinned(lines, max(most, 5))
            every = f"{len(kept)} of {len(lines)} rounds; metrics.jsonl has all" if len(kept) < len(lines) else ""
            yield folded(f"{group.label}, seed {run.config['seed']}", table(list(_rows(kept, run)), caption=every))


def _rows(lines: Sequence[Mapping[str, Any]], run: Run) -> Iterator[dict[str, Any]]:
    have = {k for m in lines for k, v in m.items() if v not in (None, 0)}
    shown = ("deployed_accuracy", "loss", "train_loss", "client_accuracy", "epsilon", "failed", "rejected")
    for m in [*lines, {**run.totals(), "round": "all"}]:
        row = {"round": m["round"], "accuracy": share(m["accuracy"])}
        counted = ("up_bytes", "down_bytes", "wire_up_bytes", "wire_down_bytes", "evaluate_bytes")
        row |= {k.replace("_", " "): "-" if m[k] is None else f"{m[k]:,}" for k in counted if k in have}
        row |= {k.replace("_", " "): m[k] if k in ("failed", "rejected") else share(m[k]) for k in shown if k in have}
        row |= {"clients": m["clients"] if m["round"] != "all" else "", "time": duration(m["seconds"])}
        yield row


def _settings(groups: Sequence[Group], defaults: Mapping[str, Any]) -> Iterator[str]:
    configs = [flatten(group.runs[0].config) for group in groups]
    columns = [group.label for group in groups]
    if len(groups) == 1:
        configs.append(flatten(defaults))
        columns.append("by default")
        yield '<p class="quiet">Marked: what differs from the defaults of this strategy.</p>'
    else:
        yield '<p class="quiet">Marked: what differs between them.</p>'
    apart = {k for c in configs for k in c if len({str(other.get(k)) for other in configs}) > 1} - {"seed"}
    keys = sorted({k for c in configs for k in c}, key=lambda k: (k not in apart, k))
    yield table([
        {"key": k, **{n: _marked(c.get(k), differs=k in apart) for n, c in zip(columns, configs, strict=True)}}
        for k in keys
    ], kind="words")  # fmt: skip


def _marked(value: Any, *, differs: bool) -> Any:
    return Raw(f"<mark>{text(value)}</mark>") if differs else value


def _provenance(group: Group, run: Run, repeat: Callable[[Run], str]) -> str:
    about, totals = run.about, run.totals()
    host = about.get("host", {})
    facts = {
        "status": run.status,
        "command": about.get("command"),
        "started": about.get("started"),
        "resumed after round": ", ".join(map(str, about.get("resumed_at", []))) or None,
        "machine": f"{host.get('system')}, {host.get('cores')} cores",
        "versions": ", ".join(f"{k} {v}" for k, v in about.get("versions", {}).items()),
        "config": about.get("config_hash"),
        "data": about.get("data_sha256"),
        "weights": about.get("weights_sha256"),
        "failed, rejected": f"{totals.get('failed') or 0}, {totals.get('rejected') or 0} replies",
        "error": about.get("error"),
    }
    return folded(
        f"{group.label}, seed {run.config['seed']}: {run.status}, {run.path.name}",
        table([{"what": k, "value": v} for k, v in facts.items() if v], kind="facts"),
        "<p>The command that repeats it:</p>",
        code(repeat(run)),
        folded("run.toml", code((run.path / "run.toml").read_text())),
    )
