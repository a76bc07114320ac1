"""Convolutions by kernel or by torch: one gradient of each model, by processor time, medians interleaved, one thread.

python benchmarks/chains.py [--repeats 25] [--model NAME:BATCH ...]

Weights are as drawn and images are noise. Torch has weights with channels last, as it is faster so (layout.py). The
floor is arithmetic: a multiplication and an addition, three times, of two vectors a cycle. What is read off: the width
of the layers from which on torch is faster (`WIDEST` in fedq/models/chains.py).
"""

import argparse
import time
from statistics import median

import torch

from fedq.kernels import active as kernels
from fedq.models import model
from fedq.models.network import Blueprint, Network
from fedq.models.stacked import Stacked

CELLS = (
    "lenet5:20", "lenet5:100", "fedlaw_lenet5:64", "terngrad_lenet:1", "terngrad_lenet:16", "terngrad_lenet:64",
    "fedau_cnn_svhn:16", "fedlaw_cnn:64", "fedvote_lenet5:32", "fedvote_lenet5:100", "vgg7:16",
)  # fmt: skip
COLOURED = ("fedau_cnn_svhn", "fedlaw_cnn", "vgg7")


def main() -> None:
    """Print milliseconds of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--model", action="append", help="NAME:BATCH; may be repeated")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"model:batch             torch ms   {kernels.isa()} ms   ratio   products a ns")
    for cell in given.model or CELLS:
        name, _, batch = cell.partition(":")
        shape = (3, 32, 32) if name in COLOURED else (1, 28, 28)
        blueprint = Blueprint(name, model(name).Options(), shape, 10, 0)
        weights = blueprint.initial_weights()
        networks = [kind(blueprint, weights, list(weights)) for kind in (Network, Stacked)]
        w_KD = networks[0].flatten(weights)[None]
        x, y = torch.rand(1, int(batch), *shape), torch.randint(0, 10, (1, int(batch)))
        taken: list[list[float]] = [[], []]
        for _ in range(given.repeats):
            for times, network in zip(taken, networks, strict=True):
                began = time.thread_time()
                network.gradient(w_KD, x, y)
                times.append(1e3 * (time.thread_time() - began))
        (by_torch, by_kernel), chain = map(median, taken), networks[1].chain
        rate = 3 * chain.products * int(batch) / by_kernel / 1e6 if chain else 0
        print(f"{cell:<22}{by_torch:>10.2f}{by_kernel:>12.2f}{by_torch / by_kernel:>8.2f}{rate:>16.0f}")


if __name__ == "__main__":
    main()
