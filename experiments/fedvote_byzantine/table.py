"""The tables of README.md from the results: python -m experiments.fedvote_byzantine.table.

Final accuracy, mean of the seeds and their range; in brackets the share of the vote that attackers had in the last
round, and the number of seeds where it is not 3.
"""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from fedq.attacks import attackers

HERE = Path(__file__).parent
RULES = {
    "uniform": "uniform",
    "reputation": "reputation, all",
    "reputation honest": "reputation, honest",
    "filtered": "filtered, all",
    "filtered honest": "filtered, honest",
    "filtered broadcast": "filtered, broadcast",
    "plausible": "plausible",
}
Found = dict[tuple[str, str], list[dict[str, Any]]]


def found() -> Found:
    """All results, by attack and rule."""
    by: Found = defaultdict(list)
    for file in sorted((HERE / "results").glob("*.json")):
        result = json.loads(file.read_text())
        cell = result["cell"]
        chosen = (cell["strategy.weighting"], cell.get("strategy.reference", ""))
        by[cell.get("attack", "none"), " ".join(filter(None, chosen))].append(result)
    return by


def share(result: dict[str, Any]) -> float:
    """The attackers' share of the vote in the last round."""
    config = result["config"]
    bad = attackers(config["attack"], config["clients"], config["seed"]).partitions
    if not result["strategy"]:
        return len(bad) / config["clients"]
    return sum(w for k, w in result["strategy"][-1]["weight"].items() if int(k) in bad)


def entry(results: list[dict[str, Any]]) -> str:
    """One cell of a table."""
    if not results:
        return ""
    scores = [r["totals"]["accuracy"] for r in results]
    text = f"{sum(scores) / len(scores):.3f}"
    if len(scores) > 1:
        text += f" ({min(scores):.2f}-{max(scores):.2f})"
    notes = [f"{sum(map(share, results)) / len(results):.2f}"] if "attack" in results[0]["config"] else []
    notes += [f"n={len(scores)}"] if len(scores) != 3 else []
    return text + (f" [{', '.join(notes)}]" if notes else "")


def table(by: Found) -> str:
    """Attacks down, rules across."""
    rows = sorted({a for a, _ in by}, key=lambda a: (a != "none", a.partition(":")[0], int(a.partition(":")[2] or 0)))
    rules = [r for r in RULES if any(by.get((a, r)) for a in rows)]
    lines = [f"| attack | {' | '.join(RULES[r] for r in rules)} |", "|---" * (len(rules) + 1) + "|"]
    lines += [f"| {a.replace(':', ' ')} | {' | '.join(entry(by.get((a, r), [])) for r in rules)} |" for a in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    page = HERE / "README.md"
    text = re.sub(
        r"(?s)(<!-- table -->\n).*?(\n<!-- end -->)", lambda m: m[1] + table(found()) + m[2], page.read_text()
    )
    page.write_text(text)
