"""Pictures, as SVG and PNG whose bytes depend on the runs only."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from fedq.report.comparison import Comparison, Group
from fedq.report.units import size

COLOURS = ("#0b6e99", "#d1600f", "#3a7d2c", "#8c4fa3", "#b02a4c", "#6b6b00", "#4b5a6a", "#a0522d")
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


def accuracy_against_bytes(comparison: Comparison, out: Path) -> list[Path]:
    """Draw accuracy against uploaded bytes (log scale), one line a group; returns the SVG and the PNG in `out`."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        for group, colour in zip(comparison.groups, COLOURS * len(comparison.groups), strict=False):
            _draw(axes, group, colour, alone=len(comparison.groups) <= 3)
        _goal(axes, comparison)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: size(n)))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("uploaded by all clients together (measured payload bytes, log scale)")
        axes.set_ylabel("test accuracy")
        axes.set_title(_claim(comparison), loc="left", fontsize=12)
        if len(comparison.groups) <= 3:
            axes.legend(loc="lower right", frameon=False, fontsize=10)
        else:
            figure.set_figheight(5 + 0.22 * len(comparison.groups))
            figure.legend(loc="outside lower left", frameon=False, fontsize=9)
        return _saved(figure, out, "accuracy_vs_bytes")


def _draw(axes: Any, group: Group, colour: str, *, alone: bool) -> None:
    mean = group.mean
    label = f"{group.label}: {mean.accuracy[-1]:.1%}"
    axes.plot(mean.up_bytes, mean.accuracy, color=colour, marker="o", markersize=3.5, linewidth=2, label=label)
    if len(group.curves) > 1:
        n = len(mean.accuracy)
        every = np.array([c.accuracy[:n] for c in group.curves])
        axes.fill_between(mean.up_bytes, every.min(0), every.max(0), color=colour, alpha=0.15, linewidth=0)
    if mean.deployed is not None and alone:
        label = f"{group.label}, as deployed: {mean.deployed[-1]:.1%}"
        axes.plot(mean.up_bytes, mean.deployed, color=colour, linestyle=":", linewidth=1.6, label=label)


def _goal(axes: Any, comparison: Comparison) -> None:
    """A line at the target, from the cheapest group that reaches it to the dearest, and how far apart they are."""
    costs = [r["up_bytes_to_target"] for r in comparison.rows() if r["up_bytes_to_target"]]
    axes.axhline(comparison.target, color="#888888", linewidth=0.8, linestyle="--")
    if len(costs) > 1 and max(costs) > min(costs):
        ends = (min(costs), comparison.target), (max(costs), comparison.target)
        axes.annotate("", xy=ends[0], xytext=ends[1], arrowprops={"arrowstyle": "<->", "color": "#444444"})
        middle = float(np.sqrt(min(costs) * max(costs)))
        text = f"{max(costs) / min(costs):.0f}x fewer bytes to {comparison.target:.0%}"
        axes.annotate(
            text,
            (middle, comparison.target),
            xytext=(0, -14),
            textcoords="offset points",
            ha="center",
            color="#444444",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85},
        )


def _claim(comparison: Comparison) -> str:
    rows = [r for r in comparison.rows() if r["up_bytes_to_target"]]
    configs = [group.config for group in comparison.groups]
    told = {"data.name": "{}", "clients": "{} clients", "data.partition": "{}"}
    same = [form.format(configs[0][k]) for k, form in told.items() if len({str(c[k]) for c in configs}) == 1]
    task = ", ".join(same)
    if not rows:
        return task
    best = min(rows, key=lambda r: float(r["up_bytes_to_target"]))
    reached = f"{comparison.target:.0%} with {size(best['up_bytes_to_target'])} uploaded"
    return f"{best['run']} first reaches {reached}\n{task}"


def _saved(figure: Figure, out: Path, name: str) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    svg, png = out / f"{name}.svg", out / f"{name}.png"
    figure.savefig(svg, metadata={"Date": None})
    figure.savefig(png, dpi=150, metadata={"Software": "fedq"})
    return [svg, png]
