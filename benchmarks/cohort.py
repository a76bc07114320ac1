"""K clients at once or one after the other: microseconds of the processor a client and local step.

python benchmarks/cohort.py. Medians of interleaved runs. One torch thread. Says for which networks stacking pays
(`_cohort` in fedq/build.py).
"""

from statistics import median
from time import process_time

import torch

from fedq.models import model
from fedq.models.network import Blueprint, Network
from fedq.models.stacked import Stacked

CASES = [  # pixels, hidden units, norm, batch
    (64, (32,), "none", 8),
    (64, (128, 64), "batch", 32),
    (784, (64,), "none", 16),
    (784, (128, 64), "batch", 32),
    (784, (128, 64), "batch", 100),
    (784, (200, 200), "none", 100),
]
COHORTS = (1, 4, 8, 16, 32, 64)


def measured(pixels: int, hidden: tuple[int, ...], norm: str, batch: int) -> list[float]:
    """Processor seconds a client and step: of the loop, then of each cohort."""
    side = int(pixels**0.5)
    options = model("mlp").Options(hidden=hidden, norm=norm)
    blueprint = Blueprint("mlp", options, (1, side, side), 10, 0)
    weights = blueprint.initial_weights()
    alone, stacked = (kind(blueprint, weights, list(weights)) for kind in (Network, Stacked))
    x, y = torch.randn(max(COHORTS), batch, 1, side, side), torch.randint(0, 10, (max(COHORTS), batch))
    w = alone.flatten(weights).repeat(max(COHORTS), 1)
    times: list[list[float]] = [[] for _ in range(1 + len(COHORTS))]
    for _ in range(15):
        for place, k in enumerate((0, *COHORTS)):
            network, n = (stacked, k) if k else (alone, 1)
            started = process_time()
            for _ in range(max(1, 16 // n)):
                network.gradient(w[:n], x[:n], y[:n])
            times[place].append((process_time() - started) / max(1, 16 // n) / n)
    return [median(t) for t in times]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"{'network':28} {'weights':>8}   loop  " + "".join(f"   K={k:<4}" for k in COHORTS))
    for pixels, hidden, norm, batch in CASES:
        d = sum(a * b for a, b in zip((pixels, *hidden), (*hidden, 10), strict=True))
        found = measured(pixels, hidden, norm, batch)
        name = f"{pixels}-{'-'.join(map(str, hidden))}-10 {norm} B={batch}"
        print(f"{name:28} {d:8}" + "".join(f" {1e6 * s:7.0f}" for s in found))
