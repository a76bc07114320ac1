"""Which client holds which examples: flwr-datasets' partitioners, and that of FedAU."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedq.errors import FedqError, nearest
from fedq.rng import rng

PARTITIONS = {
    "iid": "iid - equal shares of shuffled examples",
    "dirichlet": "dirichlet:ALPHA - each class spread over clients by a Dirichlet draw with ALPHA above 0",
    "fedau": "fedau:ALPHA - each client draws its mix of classes by ALPHA above 0; nearly equal sizes",
    "by": "by:COLUMN - one client for each value of a column of the data, in their order",
}


def parse(spec: str) -> tuple[str, float]:
    """`dirichlet:0.5` -> ("dirichlet", 0.5). FedqError FQ101 or FQ106 for anything else than `PARTITIONS` lists.

    `by:COLUMN` has no number: ("by", 0.0).
    """
    name, _, value = spec.partition(":")
    if name not in PARTITIONS:
        raise FedqError("FQ101", f"unknown partition `{name}`", hint=nearest(name, PARTITIONS))
    if (name == "iid" and not value) or (name == "by" and value):
        return name, 0.0
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if name in ("iid", "by") or not 0 < number < float("inf"):
        raise FedqError("FQ106", f"a malformed partition `{spec}`", hint=f"write {PARTITIONS[name]}")
    return name, number


def column(spec: str) -> str:
    """The column of `by:COLUMN`; empty for other partitions."""
    name, _, value = spec.partition(":")
    return value if name == "by" else ""


def by_group(groups: NDArray[np.str_]) -> list[NDArray[np.int64]]:
    """Indices for each group of examples, in the order of their names."""
    return [np.flatnonzero(groups == name) for name in np.unique(groups)]


def partition(labels: NDArray[np.int64], spec: str, clients: int, seed: int) -> list[NDArray[np.int64]]:
    """Indices into `labels` for each client: disjoint, none empty, a function of `seed`.

    Examples are shuffled first (flwr-datasets cuts contiguous pieces). FedqError FQ105 if `spec` cannot be met.
    """
    import datasets
    from flwr_datasets import partitioner as flwr

    name, value = parse(spec)
    if name == "fedau":
        return _none_empty(by_label_mix(labels, clients, value, rng(seed, "partition")), spec)
    seed32 = int(rng(seed, "partition").integers(2**31))
    order = rng(seed, "shuffle").permutation(len(labels))
    made: Any = flwr.IidPartitioner(clients)
    if name == "dirichlet":
        made = flwr.DirichletPartitioner(
            num_partitions=clients,
            partition_by="label",
            alpha=value,
            min_partition_size=1,
            self_balancing=False,
            seed=seed32,
        )
    made.dataset = datasets.Dataset.from_dict({"index": order, "label": labels[order]})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what matters of them is said below
            shards = [np.asarray(made.load_partition(k)["index"], np.int64) for k in range(clients)]
    except (ValueError, IndexError) as error:
        raise _unmet(spec, clients, str(error)) from error
    return _none_empty(shards, spec)


def by_label_mix(
    labels: NDArray[np.int64], clients: int, alpha: float, random: np.random.Generator | np.random.RandomState
) -> list[NDArray[np.int64]]:
    """FedAU's partition: nearly equal sizes, every example used once.

    Client n draws a mix of labels q_n ~ Dir(alpha). Each label's examples, in their order, are cut among the clients
    in proportion to their q_n[label]; evenly, where that is 0 for all of them.
    """
    L = int(labels.max()) + 1
    q_NL = random.dirichlet([alpha] * L, clients)
    q_NL[:, q_NL.sum(0) == 0] = 1
    ends_NL = np.cumsum(q_NL / q_NL.sum(0), axis=0)
    pieces = []
    for label in range(L):
        examples = np.flatnonzero(labels == label)
        pieces.append(np.split(examples, np.rint(ends_NL[:-1, label] * len(examples)).astype(int)))
    return [np.concatenate(own) for own in zip(*pieces, strict=True)]


def label_shares(labels: NDArray[np.int64], shards: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """The share of each label in each client's examples, [N, L]."""
    counts_NL: NDArray[np.int64] = np.stack(
        [np.bincount(labels[shard], minlength=int(labels.max()) + 1) for shard in shards]
    )
    shares_NL: NDArray[np.float64] = counts_NL / counts_NL.sum(1, keepdims=True)
    return shares_NL


def _none_empty(shards: list[NDArray[np.int64]], spec: str) -> list[NDArray[np.int64]]:
    if not all(len(shard) for shard in shards):
        raise _unmet(spec, len(shards), "a client would have no example")
    return shards


def _unmet(spec: str, clients: int, why: str) -> FedqError:
    return FedqError(
        "FQ105",
        f"partition `{spec}` cannot be made for {clients} clients: {why}",
        key="clients",
        hint="fewer --clients, a larger alpha, --partition iid, or draws: --set data.per_client=50",
    )
