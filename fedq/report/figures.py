"""The figures of a report: curves, privacy spent, and what strategies show of each client."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedq.report.comparison import Comparison
from fedq.report.curves import Group
from fedq.report.html import PAGE, inline
from fedq.report.plots import COLOURS, PICTURES, lines
from fedq.runs import Run

MOST = 5_000  # points of a figure with a line a client
RED, GREY = COLOURS[4], COLOURS[6]


def key(groups: Sequence[Group]) -> str:
    """Which colour is which group."""
    entry = '<li><span style="border-color: var(--c{})"></span>{}: {:.1%}</li>'
    listed = [entry.format(i % len(COLOURS), escape(g.label), g.final[0]) for i, g in enumerate(groups)]
    if any(g.mean.deployed is not None for g in groups) and len(groups) <= 3:
        listed.append('<li><span style="border-top-style: dotted"></span>as deployed</li>')
    return f'<ul class="key">{"".join(listed)}</ul>'


def curves(comparison: Comparison) -> Iterator[str]:
    """Accuracy against each axis."""
    for axis in PICTURES:
        figure = _figure(partial(lines, comparison=comparison, axis=replace(axis, label="")))  # the caption says it
        yield inline(figure, axis.against, f"Test accuracy: {axis.label}")


def epsilon(groups: Sequence[Group]) -> Iterator[str]:
    """Privacy spent by round; nothing where none was counted."""
    spent = {
        group.label: [(m["round"], m["epsilon"]) for m in group.runs[0].records() if m.get("epsilon") is not None]
        for group in groups
    }
    if any(spent.values()):

        def draw(axes: Any) -> None:
            for place, points in enumerate(spent.values()):
                if points:
                    axes.plot(*zip(*points, strict=True), color=COLOURS[place % len(COLOURS)], linewidth=2)
            axes.set_ylabel("epsilon")

        yield inline(_figure(draw, by_round=True), "epsilon", "Privacy spent (epsilon) by round")


def of_strategies(groups: Sequence[Group]) -> Iterator[str]:
    """What each strategy shows of its state in every round: one figure a number, or a number of each client."""
    made = [figure for place, group in enumerate(groups) for figure in _shown(place, group)]
    if made:
        yield '<div class="figures">' + "\n".join(made) + "</div>"


def _shown(place: int, group: Group) -> Iterator[str]:
    run = group.runs[0]
    records = [m for m in run.records() if m["strategy"]]
    bad = _attackers(run)
    for name in sorted({k for m in records for k in m["strategy"]}):
        points = [(m["round"], m["strategy"][name]) for m in records if name in m["strategy"]]
        who = f"{group.label}, seed {run.config['seed']}"
        each = all(isinstance(value, dict) for _, value in points)
        if each or all(isinstance(value, int | float) for _, value in points):
            named = name.replace("_", " ")
            told = f"{named} of each client, {who}" if each else f"{named}, {who}"
            told += f"; attackers in red: {', '.join(map(str, sorted(bad)))}" if each and bad else ""

            def draw(axes: Any, points: list[Any] = points, named: str = named, each: bool = each) -> None:
                _each(axes, points, bad) if each else axes.plot(*zip(*points, strict=True), color=COLOURS[0])
                axes.set_ylabel(named)

            yield inline(_figure(draw, by_round=True), f"s{place}-{name}", told)


def _each(axes: Any, points: Sequence[tuple[int, dict[str, float]]], bad: frozenset[int]) -> None:
    clients = sorted({int(c) for _, values in points for c in values}, key=lambda c: (c in bad, c))
    points = thinned(points, max(2, MOST // len(clients)))
    for client in clients:
        own = [(r, values[str(client)]) for r, values in points if str(client) in values]
        axes.plot(*zip(*own, strict=True), color=RED if client in bad else GREY, linewidth=1, alpha=0.8)


def thinned(points: Sequence[Any], most: int) -> list[Any]:
    """Every k-th of `points`, and the last, so that there are at most about `most`.

    >>> thinned(range(10), 4)
    [2, 5, 8, 9]
    """
    step = -(-len(points) // max(most, 1))
    return [p for i, p in enumerate(points, 1) if i % step == 0 or i == len(points)]


def _attackers(run: Run) -> frozenset[int]:
    from fedq.attacks import attackers

    config = run.config
    return (
        attackers(config["attack"], config["clients"], config["seed"]).partitions
        if config.get("attack")
        else frozenset()
    )


def _figure(draw: Callable[[Any], None], *, by_round: bool = False) -> Figure:
    with mpl.rc_context(PAGE):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        if by_round:
            axes.set_xlabel("rounds")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return figure
