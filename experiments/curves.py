"""The table and the figure of an experiment that compares curves: python -m experiments.curves fedvote_digits.

Writes `table.md` and `accuracy.svg` from the results alone. Settings that differ in the seed only are one line: the
mean, and the range over seeds. `compare = "bytes"` reads every line at the bytes that strategy `budget` uploads in all
its rounds; `compare = "rounds"` takes the mean of the last fifth of the evaluations.
"""

import json
import sys
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cells import cells, result
from fedq.report.units import size

HERE = Path(__file__).parent
METHOD = ("participation.name", "data.partition", "strategy.name", "codec", "model.name")  # a line of the figure each


@dataclass(frozen=True)
class Line:
    """Results that differ in the seed only, and the bytes to read them at; without those, rounds count."""

    varied: dict[str, Any]
    results: list[dict[str, Any]]
    budget: float | None

    @property
    def method(self) -> str:
        """What is compared."""
        return " ".join(str(self.varied[k]) for k in METHOD if k in self.varied)

    @property
    def setting(self) -> str:
        """The other settings."""
        others = {k: v for k, v in self.varied.items() if k not in (*METHOD, "client.name")}
        return ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in others.items())

    def scores(self, key: str = "accuracy") -> list[float]:
        """Each seed's score as the experiment reads it; none where there is none."""
        found = (self._read(r["curve"][key], r["up_bytes"]) for r in self.results)
        return [score for score in found if score is not None]

    def x(self, n: int) -> list[float]:
        """Where the first n points of the curve stand: at mean bytes, or rounds."""
        every = [r["up_bytes"][:n] if self.budget else r["curve"]["round"][:n] for r in self.results]
        return [float(x) for x in np.mean(every, axis=0)]

    def _read(self, curve: list[float | None], up_bytes: list[float]) -> float | None:
        if self.budget:
            within = [a for a, up in zip(curve, up_bytes, strict=True) if up <= self.budget and a is not None]
            return within[-1] if within else None
        last = [a for a in curve[-(len(curve) // 5 or 1) :] if a is not None]
        return float(np.mean(last)) if last else None


def lines(folder: Path, grid: dict[str, Any]) -> list[Line]:
    """All results of an experiment, by what they vary besides the seed, in the order of the grid."""
    by: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for cell in cells(folder):
        if found := result(folder, cell):
            by[json.dumps({k: v for k, v in cell.varied.items() if k != "seed"})].append(found)
    budget = None
    if grid["compare"] == "bytes":
        reference = next(r for varied, r in by.items() if json.loads(varied)["strategy.name"] == grid["budget"])
        budget = min(r["up_bytes"][-1] for r in reference)
    return [Line(json.loads(varied), results, budget) for varied, results in by.items()]


def best(found: list[Line]) -> dict[str, Line]:
    """Of each method the line with the best mean score."""
    chosen: dict[str, Line] = {}
    for line in found:
        held = chosen.get(line.method)
        if held is None or _mean(line.scores()) > _mean(held.scores()):
            chosen[line.method] = line
    return chosen


def table(found: list[Line]) -> str:
    """Markdown; the best setting of each method in bold."""
    chosen, budget = best(found).values(), found[0].budget
    read = f"accuracy at {size(budget)} up" if budget else "accuracy, last fifth"
    head = ("method", "setting", "seeds", read, "deployed", "at the end", "uploaded in all", "seconds")
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for line in found:
        end = [r["totals"]["accuracy"] for r in line.results]
        name = f"**{line.method}**" if line in chosen else line.method
        scores = _spread(line.scores()), _spread(line.scores("deployed_accuracy")), _spread(end)
        total, seconds = (
            size(float(np.mean([r["up_bytes"][-1] for r in line.results]))),
            np.median([r["seconds"] for r in line.results]),
        )
        rows.append(f"| {name} | {line.setting} | {len(end)} | {' | '.join(scores)} | {total} | {seconds:.0f} |")
    return "\n".join(rows) + "\n"


def figure(found: list[Line], claim: str, out: Path) -> None:
    """Accuracy against uploaded bytes, or rounds, of each method's best setting."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    from fedq.report.plots import COLOURS, STYLE

    budget = found[0].budget
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(8, 5), layout="constrained")
        axes = drawn.subplots()
        for place, (method, line) in enumerate(best(found).items()):
            n = min(len(r["up_bytes"]) for r in line.results)
            every = np.array([r["curve"]["accuracy"][:n] for r in line.results], float)
            x, colour, dash = (
                line.x(n),
                COLOURS[place % len(COLOURS)],
                ("-", "--", ":")[place // 8 % 3],
            )
            axes.plot(x, every.mean(0), color=colour, linestyle=dash, label=f"{method} {line.setting}".strip())
            axes.fill_between(x, every.min(0), every.max(0), color=colour, alpha=0.15, linewidth=0)
        if budget:
            axes.axvline(budget, color="#888888", linewidth=0.8, linestyle="--")
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: size(n)))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("uploaded by all clients together (measured payload bytes, log scale)" if budget else "round")
        axes.set_ylabel("test accuracy")
        axes.set_title(claim, loc="left", fontsize=9, wrap=True)
        axes.legend(loc="lower right", frameon=False, fontsize=8)
        drawn.savefig(out, metadata={"Date": None})


def main(folder: Path) -> None:
    """Write the table and the figure."""
    grid = tomllib.loads((folder / "grid.toml").read_text())
    found = lines(folder, grid)
    (folder / "table.md").write_text(table(found))
    figure(found, " ".join(grid["claim"].split()), folder / "accuracy.svg")


def _mean(scores: list[float]) -> float:
    return float(np.mean(scores)) if scores else -1.0


def _spread(scores: list[float]) -> str:
    if not scores:
        return ""
    return f"{np.mean(scores):.3f}" + (f" ({min(scores):.3f}-{max(scores):.3f})" if len(scores) > 1 else "")


if __name__ == "__main__":
    main(HERE / sys.argv[1])
