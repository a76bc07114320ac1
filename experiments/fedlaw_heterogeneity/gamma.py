"""The learned shrinking factor, from results/: python -m experiments.fedlaw_heterogeneity.gamma.

Of each run the mean gamma of the evaluated rounds up to half of them (2 to 14) and from there on (16 to 30).
"""

from pathlib import Path
from statistics import mean

from experiments.cells import cells, result

HERE = Path(__file__).parent


def halves(found: dict) -> tuple[float, float]:
    """Mean gamma of the earlier and of the later rounds."""
    at = zip(found["curve"]["round"], (line["gamma"] for line in found["strategy"]), strict=True)
    sides: tuple[list[float], list[float]] = [], []
    for round_, gamma in at:
        sides[round_ > found["totals"]["rounds"] // 2].append(gamma)
    return mean(sides[0]), mean(sides[1])


if __name__ == "__main__":
    for cell in cells(HERE):
        found = result(HERE, cell)
        if found and found["strategy"]:
            early, late = halves(found)
            print(f"{cell.name}  {early:.3f}  {late:.3f}")
