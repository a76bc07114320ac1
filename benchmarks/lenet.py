"""What makes LeNet-5 train faster on a CPU: each trial against two parallel bare loops, by processor time.

    python benchmarks/lenet.py [--repeats 3] [--updates 30] [--compile] [--only NAME ...]

A trial is two processes at once with one torch thread each. An update is one client's local training: five SGD steps of
20 images of 28x28 in a network of 61,706 weights, from the global weights to a flat vector of new ones. Processor time
of the warm updates is compared, which other work on the machine moves less than it moves the clock. `as` says whether
the trial trains the same function: `same` up to rounding, `ties` where equal inputs of a pool get another gradient,
`bf16` where products are rounded to eight bits.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedq.models import model

STEPS, BATCH, RATE, GROUP = 5, 20, 0.05, 10
Update = Callable[[Tensor, Tensor], Tensor]  # images [S, B, 1, 28, 28] and labels [S, B] -> new weights [D]


def network() -> nn.Module:
    """The project's LeNet-5."""
    return model("lenet5")((1, 28, 28), 10, model("lenet5").Options())


class PoolFirst(nn.Module):
    """The same layers with each pool before its ReLU: the same function."""

    def __init__(self, of: nn.Module) -> None:
        super().__init__()
        layers = [part for part in of.modules() if not list(part.children())]
        order = list(range(len(layers)))
        for i, (a, b) in enumerate(pairwise(layers)):
            if isinstance(a, nn.ReLU) and isinstance(b, nn.MaxPool2d):
                order[i], order[i + 1] = order[i + 1], order[i]
        self.layers = nn.Sequential(*(layers[i] for i in order))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 10]."""
        return self.layers(x)


class Unfolded(nn.Module):
    """A convolution as a product of weights and unfolded patches."""

    def __init__(self, of: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias, self.how = of.weight, of.bias, {"kernel_size": of.kernel_size, "padding": of.padding}

    def forward(self, x: Tensor) -> Tensor:
        """Activations, square."""
        y = self.weight.flatten(1) @ functional.unfold(x, **self.how) + self.bias[:, None]
        side = int(y.shape[-1] ** 0.5)
        return y.view(len(x), -1, side, side)


def stepped(net: nn.Module, *, dtype: torch.dtype | None = None, last: bool = False) -> Update:
    """Steps of torch.autograd.grad and torch._foreach_add_, no optimizer."""
    weights, world = list(net.parameters()), [p.detach().clone() for p in net.parameters()]

    def update(x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            torch._foreach_copy_(weights, world)
        for x_B, y_B in zip(x, y, strict=True):
            seen = x_B.contiguous(memory_format=torch.channels_last) if last else x_B
            with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
                loss = functional.cross_entropy(net(seen), y_B)
            slopes = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                torch._foreach_add_(weights, slopes, alpha=-RATE)
        return torch.cat([w.detach().reshape(-1) for w in weights])

    return update


def bare(**how: bool) -> Update:
    """The plain loop: a state dict in, torch.optim.SGD, a state dict out."""
    net = network()
    world = {name: p.detach().clone() for name, p in net.state_dict().items()}

    def update(x: Tensor, y: Tensor) -> Tensor:
        net.load_state_dict(world)
        sgd = torch.optim.SGD(net.parameters(), lr=RATE, **how)
        for x_B, y_B in zip(x, y, strict=True):
            sgd.zero_grad()
            functional.cross_entropy(net(x_B), y_B).backward()
            sgd.step()
        return torch.cat([p.reshape(-1) for p in net.state_dict().values()])

    return update


def fedq() -> Update:
    """What a client of fedq does today: all its local steps in one kernel call."""
    from fedq.clients.local import Drawn
    from fedq.clients.sgd import Sgd
    from fedq.models.network import Blueprint
    from fedq.models.stacked import Stacked

    blueprint = Blueprint("lenet5", model("lenet5").Options(), (1, 28, 28), 10, 0)
    weights = blueprint.initial_weights()
    net, sgd = Stacked(blueprint, weights, list(weights)), Sgd(Sgd.Options(lr=RATE))
    start_D, places = net.flatten(weights), torch.arange(STEPS * BATCH).reshape(1, STEPS, BATCH)

    def update(x: Tensor, y: Tensor) -> Tensor:
        drawn = Drawn(x.flatten(0, 1), y.flatten(), places, None, lambda: None)
        return sgd.train(net, start_D[None], drawn)[0][0]

    return update


def grouped() -> Update:
    """Ten clients at once: convolutions in ten groups, linear layers as batched products; one of them is counted."""
    convolutions = [(m.weight, m.bias, m.padding) for m in network().modules() if isinstance(m, nn.Conv2d)]
    linears = [(m.weight, m.bias) for m in network().modules() if isinstance(m, nn.Linear)]
    shapes = [(w, b) for w, b, _ in convolutions] + linears
    world = [t.detach().expand(GROUP, *t.shape).clone() for pair in shapes for t in pair]

    def forward(weights: list[Tensor], x: Tensor) -> Tensor:
        y, at = x.expand(-1, GROUP, -1, -1), 0
        for _, _, padding in convolutions:
            w, b = weights[at].flatten(0, 1), weights[at + 1].flatten()
            y, at = functional.max_pool2d(functional.conv2d(y, w, b, padding=padding, groups=GROUP).relu(), 2), at + 2
        z = y.view(len(x), GROUP, -1).transpose(0, 1)
        for i in range(len(linears)):
            z = torch.baddbmm(weights[at + 1][:, None], z, weights[at].transpose(1, 2))
            z, at = z if i == len(linears) - 1 else z.relu(), at + 2
        return z

    def update(x: Tensor, y: Tensor) -> Tensor:
        weights = [w.clone().requires_grad_() for w in world]
        for x_B, y_B in zip(x, y, strict=True):
            logits = forward(weights, x_B)
            loss = functional.cross_entropy(logits.flatten(0, 1), y_B.repeat(GROUP)) * GROUP
            slopes = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                torch._foreach_add_(weights, slopes, alpha=-RATE)
        return torch.cat([w.detach().reshape(-1) for w in weights])

    return update


def unfolded() -> nn.Module:
    """LeNet-5 whose convolutions are products."""
    net = PoolFirst(network())
    net.layers = nn.Sequential(*(Unfolded(m) if isinstance(m, nn.Conv2d) else m for m in net.layers))
    return net


def last(net: nn.Module) -> nn.Module:
    """With the channels of activations and weights last in memory."""
    return net.to(memory_format=torch.channels_last)


TRIALS: dict[str, tuple[str, Callable[[], Update]]] = {
    "bare": ("same", bare),
    "fused SGD": ("same", lambda: bare(fused=True)),
    "no optimizer": ("same", lambda: stepped(network())),
    "fedq": ("same", fedq),
    "channels last": ("same", lambda: stepped(last(network()), last=True)),
    "pool before ReLU": ("ties", lambda: stepped(PoolFirst(network()))),
    "both": ("ties", lambda: stepped(last(PoolFirst(network())), last=True)),
    "bf16": ("bf16", lambda: stepped(network(), dtype=torch.bfloat16)),
    "bf16, both": ("bf16", lambda: stepped(last(PoolFirst(network())), dtype=torch.bfloat16, last=True)),
    "products of patches": ("ties", lambda: stepped(unfolded())),
    "ten in groups": ("same", grouped),
    "compiled": ("same", lambda: stepped(torch.compile(network()))),  # type: ignore[arg-type]
}


def measured(name: str, updates: int) -> float:
    """Processor seconds of a warm update."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    update, times = TRIALS[name][1](), list[float]()
    x, y = torch.randn(STEPS, BATCH, 1, 28, 28), torch.randint(10, (STEPS, BATCH))
    clients = GROUP if name == "ten in groups" else 1
    for _ in range(5 + updates // clients):
        began = time.process_time()
        update(x, y)
        times.append((time.process_time() - began) / clients)
    return median(times[5:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes half a minute")
    parser.add_argument("--only", nargs="+", default=list(TRIALS))
    parser.add_argument("--trial", help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.trial:
        print(json.dumps(measured(o.trial, o.updates)))
        return
    names = ["bare", *(n for n in o.only if n != "bare" and (n != "compiled" or o.compile))]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(o.repeats):
        for name in names:
            words = [sys.executable, __file__, "--trial", name, "--updates", str(o.updates)]
            pair = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
            seconds[name] += [float(p.communicate()[0]) for p in pair]
    reference = median(seconds["bare"])
    print("trial                 as     ms an update   x two bare loops")
    for name, found in seconds.items():
        print(f"{name:<20}  {TRIALS[name][0]:<4}   {1e3 * median(found):12.1f}   {reference / median(found):16.2f}")


if __name__ == "__main__":
    main()
