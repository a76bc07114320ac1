"""What channels-last weights gain: one gradient of each convolutional model, by processor time, medians interleaved.

python benchmarks/layout.py [--repeats 25] [--model NAME:BATCH ...]

Weights are drawn as noise: what is timed does not depend on their values.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn
from torch.nn import functional

from fedq.models import model

CELLS = ("lenet5:20", "terngrad_lenet:32", "vgg7:8", "resnet20:16")


def gradient(name: str, batch: int, layout: torch.memory_format) -> Callable[[], object]:
    """The gradient of a batch of noise."""
    shape = (3, 32, 32) if name in ("vgg7", "resnet20") else (1, 28, 28)
    net: nn.Module = model(name)(shape, 10, model(name).Options()).to(memory_format=layout)
    weights = list(net.parameters())
    for w in weights:
        nn.init.normal_(w, std=0.05)
    x, y = torch.rand(batch, *shape), torch.randint(0, 10, (batch,))
    return lambda: torch.autograd.grad(functional.cross_entropy(net(x), y), weights)


def main() -> None:
    """Print milliseconds of each layout, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--model", action="append", help="NAME:BATCH; may be repeated")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("model:batch          contiguous ms   channels last ms   ratio")
    for cell in given.model or CELLS:
        name, _, batch = cell.partition(":")
        trials = [gradient(name, int(batch), f) for f in (torch.contiguous_format, torch.channels_last)]
        taken: list[list[float]] = [[], []]
        for _ in range(given.repeats):
            for times, trial in zip(taken, trials, strict=True):
                began = time.thread_time()
                trial()
                times.append(1e3 * (time.thread_time() - began))
        before, after = map(median, taken)
        print(f"{cell:<22}{before:>12.2f}{after:>19.2f}{before / after:>8.2f}")


if __name__ == "__main__":
    main()
