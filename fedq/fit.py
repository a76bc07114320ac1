"""What can be told only once a config's parts are there: whether they fit each other, and this machine."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from flwr.app import RecordDict

from fedq.clients.feedback import check_feedback
from fedq.clients.local import LocalAlgorithm
from fedq.clients.private import Private
from fedq.config import RunConfig
from fedq.data import Examples
from fedq.data.population import Drawn
from fedq.errors import FedqError
from fedq.models.network import Blueprint
from fedq.strategies import PackedStrategy
from fedq.strategies.proxy import ProxyOptions


def device(config: RunConfig) -> str:
    """Where this process trains and evaluates. FedqError FQ206 if it has to, and there is no GPU, or FQ105.

    The driver of a Ray cluster may be without: its workers have them.
    """
    if config.top.device is None:
        return "cpu"
    if isinstance(config.strategy.options, ProxyOptions):
        raise FedqError("FQ105", f"`{config.strategy.name}` learns on the server's CPU", key="device")
    if torch.cuda.is_available():
        return "cuda"
    if config.engine == "ray":
        return "cpu"
    raise FedqError(
        "FQ206", f"torch {torch.__version__} finds no CUDA GPU here", key="device", hint="--device cpu, or leave it out"
    )


def check_disjoint(config: RunConfig, held: Any) -> None:
    """FedqError FQ105 where clients draw their examples: a record that several hold is spent by each of them."""
    if isinstance(held, Drawn):
        given = config.top.data.per_client is not None
        raise FedqError(
            "FQ105",
            "records are held by several clients, so no client's epsilon is a record's",
            key="data.per_client" if given else "clients",
            hint="leave data.per_client out" if given else "fewer --clients than examples",
        )


def check_shared(config: RunConfig, held: Any, examples: int) -> Iterator[str]:
    """A warning where clients draw their examples, and nobody asked for it."""
    if isinstance(held, Drawn) and config.top.data.per_client is None:
        yield (
            f"{len(held)} clients are more than the {examples} examples: each draws its own from all of them, "
            "so clients share examples (data.per_client says how many)"
        )


def check_ledgers(spent: Mapping[str, Any], kept: Callable[[int], RecordDict]) -> None:
    """FedqError FQ205 if a client that has spent privacy lacks its ledger in what its node has `kept`."""
    for partition_ in map(int, spent):
        if "ledger" not in kept(partition_ + 1):
            raise FedqError(
                "FQ205",
                f"the privacy ledger of client {partition_} is missing: what it would spend further cannot be told",
                hint="start a new run; what was released before still counts against these data",
            )


def check_proxy(config: RunConfig, held: Examples | None) -> Iterator[str]:
    """A warning where the server learns on what it is then tested on."""
    if held and config.strategy.options.proxy == "test":
        yield (
            f"the server learns on {len(held)} test images (strategy.proxy = test); "
            "accuracy is that of the others, and still flattered by them"
        )


def check_added(config: RunConfig, server: PackedStrategy) -> tuple[str, ...]:
    """Warnings about error feedback; FedqError FQ105 where what was lost cannot be added up."""
    return check_feedback(config.strategy.name, server.sends, server.codec, asked_first=server.asks_first)


def check_client(config: RunConfig, server: PackedStrategy, algorithm: LocalAlgorithm | Private) -> None:
    """FedqError FQ105 unless clients send what the strategy combines, where and how they are to train."""
    if (config.top.device or config.top.precision) and isinstance(algorithm, Private):
        key = "device" if config.top.device else "precision"
        raise FedqError("FQ105", f"client `{config.client.name}` trains in float32 on the CPU only", key=key)
    if server.client and config.client.name != server.client:
        raise FedqError(
            "FQ105",
            f"`{config.strategy.name}` needs the client `{server.client}`, not `{config.client.name}`",
            key="client.name",
            hint="leave client.name out: the strategy knows its own",
        )
    if isinstance(algorithm, Private) != server.private:
        raise FedqError(
            "FQ105",
            f"`{config.client.name}` keeps a privacy ledger, and `{config.strategy.name}` reads none"
            if isinstance(algorithm, Private)
            else f"`{config.strategy.name}` needs a private client, and `{config.client.name}` is none",
            key="client.name",
            hint="--strategy dp_lora",
        )
    if (server.sends == "gradient") != (algorithm.returns == "gradient"):
        wanted = "a gradient" if server.sends == "gradient" else "weights"
        raise FedqError(
            "FQ105",
            f"`{config.strategy.name}` needs a client that returns {wanted}, and `{config.client.name}` does not",
            key="client.name",
            hint="leave client.name out: the strategy knows its own",
        )


def check_norms(config: RunConfig, blueprint: Blueprint) -> Iterator[str]:
    """A warning where +-1 weights are not normalised; FedqError FQ105 where batches cannot be."""
    if blueprint.normalised() and config.client.options.batch_size < 2:
        raise FedqError(
            "FQ105",
            f"`{config.model.name}` has batch norm, which needs batches of at least 2 examples",
            key="client.batch_size",
            hint="raise --batch-size, or --set model.norm=none where the model has that",
        )
    if config.client.name == "latent" and not blueprint.normalised():
        yield f"`{config.model.name}` has no batch norm, so activations of +-1 weights grow with every layer"
