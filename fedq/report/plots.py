"""Pictures, as SVG and PNG whose bytes depend on the runs only."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from fedq.report.comparison import Comparison
from fedq.report.curves import Group
from fedq.report.tables import writing
from fedq.report.units import duration, size

COLOURS = ("#0b6e99", "#d1600f", "#3a7d2c", "#8c4fa3", "#b02a4c", "#6b6b00", "#4b5a6a", "#a0522d")
MARKED = 150  # evaluations up to which each has a point of its own
STYLE: Any = {
    "svg.hashsalt": "fedq",
    "svg.fonttype": "none",
    "font.size": 11,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
}


@dataclass(frozen=True)
class Axis:
    """What accuracy is drawn against."""

    key: str  # the attribute of a curve
    against: str  # in the name of the files
    label: str
    ticks: Callable[[float], str]
    log: bool = False


MEASURED = "(measured payload bytes, log scale)"
UP = Axis("up_bytes", "bytes", f"uploaded by all clients together {MEASURED}", size, log=True)
PICTURES = (
    UP,
    Axis("total_bytes", "total_bytes", f"sent up and down {MEASURED}", size, log=True),
    Axis("rounds", "rounds", "rounds", str),
    Axis("seconds", "seconds", "time of this simulation", duration),
)


def pictures(comparison: Comparison, out: Path) -> list[Path]:
    """Draw accuracy against each of `PICTURES`; returns the SVGs and PNGs in `out`."""
    return [file for axis in PICTURES for file in saved(draw(comparison, axis), out, f"accuracy_vs_{axis.against}")]


def accuracy_against_bytes(comparison: Comparison, out: Path) -> list[Path]:
    """Draw accuracy against uploaded bytes (log scale), one line a group; returns the SVG and the PNG in `out`."""
    return saved(draw(comparison, UP), out, "accuracy_vs_bytes")


def draw(comparison: Comparison, axis: Axis) -> Figure:
    """Accuracy against one axis: a line a group, the mean over seeds, in a band from the least to the most."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        lines(axes, comparison, axis)
        if axis is UP:
            _goal(axes, comparison)
        axes.set_title(claim(comparison) if axis is UP else task(comparison), loc="left", fontsize=12)
        if len(comparison.groups) <= 3:
            axes.legend(loc="lower right", frameon=False, fontsize=10)
        else:
            figure.set_figheight(5 + 0.22 * len(comparison.groups))
            figure.legend(loc="outside lower left", frameon=False, fontsize=9)
        return figure


def lines(axes: Any, comparison: Comparison, axis: Axis) -> None:
    """The lines, bands, target and scales of such a figure."""
    for group, colour in zip(comparison.groups, COLOURS * len(comparison.groups), strict=False):
        _draw(axes, axis.key, group, colour, alone=len(comparison.groups) <= 3)
    axes.axhline(comparison.target, color="#888888", linewidth=0.8, linestyle="--")
    _scale(axes, axis)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel(axis.label)
    axes.set_ylabel("test accuracy")


def _draw(axes: Any, key: str, group: Group, colour: str, *, alone: bool) -> None:
    mean = group.mean
    x, label = getattr(mean, key), f"{group.label}: {mean.accuracy[-1]:.1%}"
    marker = "o" if len(x) <= MARKED else None
    axes.plot(x, mean.accuracy, color=colour, marker=marker, markersize=3.5, linewidth=2, label=label)
    if len(group.curves) > 1:
        every = np.array([c.accuracy for c in group.curves])
        axes.fill_between(x, every.min(0), every.max(0), color=colour, alpha=0.15, linewidth=0)
    if mean.deployed is not None and alone:
        label = f"{group.label}, as deployed: {mean.deployed[-1]:.1%}"
        axes.plot(x, mean.deployed, color=colour, linestyle=":", linewidth=1.6, label=label)


def _scale(axes: Any, axis: Axis) -> None:
    if axis.log:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high / low > 100 else (1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(9 if axis.ticks is str else 6, integer=axis.ticks is str))
    if axis.ticks is not str:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: axis.ticks(n)))


def _goal(axes: Any, comparison: Comparison) -> None:
    """An arrow from the group that uploads least to the target to the one that uploads most, and how far it is."""
    costs = [r["up_bytes_to_target"] for r in comparison.rows() if r["rounds_to_target"]]
    if len(costs) > 1 and max(costs) > min(costs) > 0:
        ends = (min(costs), comparison.target), (max(costs), comparison.target)
        axes.annotate("", xy=ends[0], xytext=ends[1], arrowprops={"arrowstyle": "<->", "color": "#444444"})
        ratio = max(costs) / min(costs)
        axes.annotate(
            f"{ratio:.{0 if ratio >= 10 else 1}f}x fewer bytes to {comparison.target:.0%}",
            (float(np.sqrt(min(costs) * max(costs))), comparison.target),
            xytext=(0, -14),
            textcoords="offset points",
            ha="center",
            color="#444444",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85},
        )


def task(comparison: Comparison) -> str:
    """What all groups have in common: data, clients, partition."""
    configs = [group.config for group in comparison.groups]
    told = {"data.name": "{}", "clients": "{} clients", "data.partition": "{}"}
    return ", ".join(form.format(configs[0][k]) for k, form in told.items() if len({str(c[k]) for c in configs}) == 1)


def claim(comparison: Comparison) -> str:
    """What the comparison comes to: who reaches the target with the fewest uploaded bytes; and the task."""
    rows = [r for r in comparison.rows() if r["rounds_to_target"]]
    if not rows:
        return task(comparison)
    best = min(rows, key=lambda r: float(r["up_bytes_to_target"]))
    reached = f"{comparison.target:.0%} with {size(best['up_bytes_to_target'])} uploaded"
    return f"{best['run']} first reaches {reached}\n{task(comparison)}"


def saved(figure: Figure, out: Path, name: str) -> list[Path]:
    """The figure as SVG and PNG in the folder `out`. FedqError FQ206 if they cannot be written."""
    svg, png = out / f"{name}.svg", out / f"{name}.png"
    with writing(out), mpl.rc_context(STYLE):
        figure.savefig(svg, metadata={"Date": None})
        figure.savefig(png, dpi=150, metadata={"Software": "fedq"})
    return [svg, png]
