"""The table and the figure of an experiment that compares curves: python -m experiments.curves fedvote_digits.

Writes `table.md` and `accuracy.svg` from the results alone. Settings that differ in the seed only are one line: the
mean, and the range over seeds. `budget` names the strategy whose uploaded bytes every line is read at.
"""

import json
import sys
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedq.report.units import size

HERE = Path(__file__).parent
METHOD = ("strategy.name", "codec", "model.name")


@dataclass(frozen=True)
class Line:
    """Results that differ in the seed only."""

    varied: dict[str, Any]
    results: list[dict[str, Any]]

    @property
    def method(self) -> str:
        """What is compared: strategy, codec, and the network where that varies."""
        return " ".join(str(self.varied[k]) for k in METHOD if k in self.varied)

    @property
    def setting(self) -> str:
        """The other settings."""
        return ", ".join(
            f"{k.rpartition('.')[2]} {v}" for k, v in self.varied.items() if k not in (*METHOD, "client.name")
        )

    def at(self, budget: float, key: str = "accuracy") -> list[float]:
        """Each seed's last score within `budget` uploaded bytes; none where the first evaluation is beyond it."""
        scores = []
        for r in self.results:
            within = [a for a, b in zip(r["curve"][key], r["up_bytes"], strict=True) if b <= budget and a is not None]
            scores += within[-1:]
        return scores


def lines(folder: Path) -> list[Line]:
    """All results of an experiment, by what they vary besides the seed, in the order of the grid."""
    from experiments.cells import cells, result

    by: dict[str, list[dict[str, Any]]] = defaultdict(list)
    varied = {}
    for cell in cells(folder):
        rest = {k: v for k, v in cell.varied.items() if k != "seed"}
        found = result(folder, cell)
        if found:
            by[json.dumps(rest)].append(found)
            varied[json.dumps(rest)] = rest
    return [Line(varied[k], by[k]) for k in by]


def best(found: list[Line], budget: float) -> dict[str, Line]:
    """Of each method the line with the best mean accuracy within the budget."""
    chosen: dict[str, Line] = {}
    for line in found:
        held = chosen.get(line.method)
        if held is None or _mean(line.at(budget)) > _mean(held.at(budget)):
            chosen[line.method] = line
    return chosen


def table(found: list[Line], budget: float) -> str:
    """Markdown; the best setting of each method in bold."""
    chosen = best(found, budget).values()
    rows = [
        f"| method | setting | seeds | accuracy at {size(budget)} up | deployed | after all rounds | uploaded in all |"
    ]
    rows.append("|---|---|---|---|---|---|---|")
    for line in found:
        end = [r["totals"]["accuracy"] for r in line.results]
        name = f"**{line.method}**" if line in chosen else line.method
        total = size(line.results[0]["up_bytes"][-1])
        scores = _spread(line.at(budget)), _spread(line.at(budget, "deployed_accuracy")), _spread(end)
        rows.append(f"| {name} | {line.setting} | {len(line.results)} | {' | '.join(scores)} | {total} |")
    return "\n".join(rows) + "\n"


def figure(found: list[Line], budget: float, claim: str, out: Path) -> None:
    """Accuracy against uploaded bytes of each method's best setting."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    from fedq.report.plots import COLOURS, STYLE

    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(8, 5), layout="constrained")
        axes = drawn.subplots()
        for (method, line), colour in zip(best(found, budget).items(), COLOURS, strict=False):
            n = min(len(r["up_bytes"]) for r in line.results)
            every = np.array([r["curve"]["accuracy"][:n] for r in line.results], float)
            up = line.results[0]["up_bytes"][:n]
            axes.plot(up, every.mean(0), color=colour, marker="o", markersize=3, label=f"{method} ({line.setting})")
            axes.fill_between(up, every.min(0), every.max(0), color=colour, alpha=0.15, linewidth=0)
        axes.axvline(budget, color="#888888", linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: size(n)))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("uploaded by all clients together (measured payload bytes, log scale)")
        axes.set_ylabel("test accuracy")
        axes.set_title(claim, loc="left", fontsize=9, wrap=True)
        axes.legend(loc="lower right", frameon=False, fontsize=9)
        drawn.savefig(out, metadata={"Date": None})


def main(folder: Path) -> None:
    """Write the table and the figure."""
    grid = tomllib.loads((folder / "grid.toml").read_text())
    found = lines(folder)
    reference = [line for line in found if line.varied.get("strategy.name") == grid["budget"]]
    budget = min(r["up_bytes"][-1] for r in reference[0].results)
    (folder / "table.md").write_text(table(found, budget))
    figure(found, budget, " ".join(grid["claim"].split()), folder / "accuracy.svg")


def _mean(scores: list[float]) -> float:
    return float(np.mean(scores)) if scores else -1.0


def _spread(scores: list[float]) -> str:
    if not scores:
        return "-"
    return f"{np.mean(scores):.3f}" + (f" ({min(scores):.3f}-{max(scores):.3f})" if len(scores) > 1 else "")


if __name__ == "__main__":
    main(HERE / sys.argv[1])
