"""Convolutions by torch or by kernel: one gradient of each model, by processor time, medians interleaved, one thread.

python benchmarks/convolutions.py [--repeats 25] [--model NAME:BATCH ...]

Weights are as drawn and images are noise. Torch has its weights as they are drawn, and with channels last, as fedq
gives them to it (`network.py`). The floor is arithmetic: a multiplication and an addition, three times, of two vectors
a cycle. What is read off: the width of the layers from which on torch is faster (`WIDEST` in fedq/models/chains.py).
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch.nn import functional

from fedq.kernels import active as kernels
from fedq.models import model
from fedq.models.network import Blueprint, Network
from fedq.models.stacked import Stacked

CELLS = (
    "lenet5:20", "lenet5:100", "fedlaw_lenet5:64", "terngrad_lenet:1", "terngrad_lenet:16", "terngrad_lenet:64",
    "fedau_cnn_svhn:16", "fedlaw_cnn:64", "fedvote_lenet5:32", "fedvote_lenet5:100", "vgg7:16", "resnet20:16",
)  # fmt: skip
COLOURED = ("fedau_cnn_svhn", "fedlaw_cnn", "vgg7", "resnet20")


def contenders(name: str, batch: int) -> tuple[dict[str, Callable[[], object]], float]:
    """The gradients of a batch of noise, and the products that a kernel makes for one."""
    shape = (3, 32, 32) if name in COLOURED else (1, 28, 28)
    blueprint = Blueprint(name, model(name).Options(), shape, 10, 0)
    weights = blueprint.initial_weights()
    channels_last = Network(blueprint, weights, list(weights))
    w_KD = channels_last.flatten(weights)[None]
    x, y = torch.rand(1, batch, *shape), torch.randint(0, 10, (1, batch))
    module = model(name)(shape, 10, model(name).Options())
    own = list(module.parameters())
    trials: dict[str, Callable[[], object]] = {
        "torch": lambda: torch.autograd.grad(functional.cross_entropy(module(x[0]), y[0]), own),
        "channels last": lambda: channels_last.gradient(w_KD, x, y),
    }
    try:
        stacked = Stacked(blueprint, weights, list(weights))
    except ValueError:  # no chain of layers
        return trials, 0.0
    trials["kernel"] = lambda: stacked.gradient(w_KD, x, y)
    return trials, 3.0 * stacked.chain.products * batch if stacked.chain else 0.0


def main() -> None:
    """Print milliseconds of all, and what the kernel gains on torch with channels last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--model", action="append", help="NAME:BATCH; may be repeated")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"model:batch             torch ms   channels last ms   {kernels.isa():>6} ms   gain   products a ns")
    for cell in given.model or CELLS:
        name, _, batch = cell.partition(":")
        trials, products = contenders(name, int(batch))
        taken: dict[str, list[float]] = {trial: [] for trial in trials}
        for _ in range(given.repeats):
            for trial, run in trials.items():
                began = time.thread_time()
                run()
                taken[trial].append(1e3 * (time.thread_time() - began))
        ms = {trial: median(times) for trial, times in taken.items()}
        line = f"{cell:<22}{ms['torch']:>10.2f}{ms['channels last']:>19.2f}"
        if "kernel" in ms:
            gain = ms["channels last"] / ms["kernel"]
            line += f"{ms['kernel']:>12.2f}{gain:>7.2f}{products / ms['kernel'] / 1e6:>16.0f}"
        print(line)


if __name__ == "__main__":
    main()
