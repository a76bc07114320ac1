"""What a whole fedq round costs beside the bare PyTorch steps in it: FedVote's LeNet-5, batches of 100.

    python benchmarks/round_overhead.py --data-dir DIR [--repeats 3] [--clients 4] [--steps 10]

Contenders take turns; medians are printed. `bare` is the plain loop a person would write (a module whose forward takes
tanh of latent parameters, torch.optim.Adam, no messages, no packing), with one torch thread and with all cores. The
floor of a step is its multiplications over the machine's rate of float32 matrix products, measured in the same run.
"""

import argparse
from statistics import median
from time import perf_counter

import torch
from torch import nn
from torch.func import functional_call

from fedq.build import Simulation, build, one_torch_thread
from fedq.config import make_config
from fedq.kernels import records
from fedq.rounds import rounds

BATCH = 100


def bare(clients: int, steps: int, threads: int) -> float:
    """Seconds a step of the plain loop."""
    torch.set_num_threads(threads)
    from fedq.models.fedvote import FedVoteLeNet5

    network = FedVoteLeNet5((1, 28, 28), 10, FedVoteLeNet5.Options())
    latent = {n: nn.Parameter(torch.randn_like(p)) for n, p in list(network.named_parameters())[:3]}
    x, y = torch.randn(BATCH, 1, 28, 28), torch.randint(10, (BATCH,))
    began = perf_counter()
    for _ in range(clients):
        adam = torch.optim.Adam(latent.values(), lr=0.05)
        for _ in range(steps):
            adam.zero_grad()
            logits = functional_call(network, {n: torch.tanh(1.5 * h) for n, h in latent.items()}, (x,))
            nn.functional.cross_entropy(logits, y).backward()
            adam.step()
    return (perf_counter() - began) / (clients * steps)


def fedq_round(simulation: Simulation, steps: int, clients: int) -> float:
    """Seconds a step of a whole round: messages, decode, train, encode, check, fold; without evaluation."""
    arrays = records.to_record(simulation.initial)
    with one_torch_thread():
        (record,) = rounds(simulation.strategy, simulation.grid, arrays, first=1, last=1)
    return record.seconds / (clients * steps)


def matmul_rate() -> float:
    """Multiply-adds a second of a large matrix product, one thread."""
    torch.set_num_threads(1)
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    a @ b
    began = perf_counter()
    for _ in range(5):
        a @ b
    return 5 * 1024**3 / (perf_counter() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--data-dir", required=True, help="Fashion-MNIST, a folder in the hub's layout")
    o = parser.parse_args()
    cores = torch.get_num_threads()
    settings = {
        "data.name": "fashion_mnist", "data.dir": o.data_dir, "model": "fedvote_lenet5", "clients": o.clients,
        "client.local_steps": o.steps, "client.batch_size": BATCH,
    }  # fmt: skip
    built = {w: build(make_config(settings, workers=w, engine="local")) for w in (1, cores)}
    contenders = {
        "bare, 1 thread": lambda: bare(o.clients, o.steps, 1),
        f"bare, {cores} threads": lambda: bare(o.clients, o.steps, cores),
        "fedq, 1 worker": lambda: fedq_round(built[1], o.steps, o.clients),
        f"fedq, {cores} workers": lambda: fedq_round(built[cores], o.steps, o.clients),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(o.repeats):
        for name, measure in contenders.items():
            times[name].append(measure())
    multiplies = BATCH * 3 * (28 * 28 * 800 + 14 * 14 * 51_200 + 1_605_632) - BATCH * 28 * 28 * 800
    print(
        f"floor  {1e3 * multiplies / matmul_rate():7.1f} ms a step   {multiplies / 1e9:.2f} G multiply-adds, one thread"
    )
    best = min(median(times[n]) for n in times if n.startswith("bare"))
    for name, seconds in times.items():
        print(
            f"{name:<18} {1e3 * median(seconds):7.1f} ms a step   {median(seconds) / best:5.2f} of the best bare loop"
        )


if __name__ == "__main__":
    main()
