"""Which client holds which examples, through flwr-datasets' partitioners."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedq.errors import FedqError, nearest
from fedq.rng import rng

PARTITIONS = {
    "iid": "equal shares of shuffled examples",
    "dirichlet": "dirichlet:ALPHA - each class spread over clients by a Dirichlet draw (Yurochkin et al. 2019)",
    "pathological": "pathological:N - N classes a client (McMahan et al. 2017)",
}


def parse(spec: str) -> tuple[str, float]:
    """`dirichlet:0.5` -> ("dirichlet", 0.5). FedqError FQ101 or FQ106 for anything else than `PARTITIONS` lists."""
    name, _, value = spec.partition(":")
    if name not in PARTITIONS:
        raise FedqError("FQ101", f"unknown partition `{name}`", hint=nearest(name, PARTITIONS))
    if name == "iid" and not value:
        return name, 0.0
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if name == "iid" or not 0 < number < float("inf") or (name == "pathological" and number % 1):
        raise FedqError("FQ106", f"a malformed partition `{spec}`", hint=f"write {PARTITIONS[name]}")
    return name, number


def partition(labels: NDArray[np.int64], spec: str, clients: int, seed: int) -> list[NDArray[np.int64]]:
    """Indices into `labels` for each client: disjoint, none empty, a function of `seed`.

    Examples are shuffled first (flwr-datasets cuts contiguous pieces). FedqError FQ105 if `spec` cannot be met.
    """
    import datasets
    from flwr_datasets import partitioner as flwr

    name, value = parse(spec)
    seed32 = int(rng(seed, "partition").integers(2**31))
    order = rng(seed, "shuffle").permutation(len(labels))
    shared: dict[str, Any] = {"num_partitions": clients, "partition_by": "label", "seed": seed32}
    made = (
        flwr.IidPartitioner(clients) if name == "iid"
        else flwr.DirichletPartitioner(alpha=value, min_partition_size=1, **shared) if name == "dirichlet"
        else flwr.PathologicalPartitioner(num_classes_per_partition=int(value), **shared)
    )  # fmt: skip
    made.dataset = datasets.Dataset.from_dict({"index": order, "label": labels[order]})
    try:
        shards = [np.asarray(made.load_partition(k)["index"], np.int64) for k in range(clients)]
    except ValueError as error:
        raise _unmet(spec, clients, str(error)) from error
    if not all(len(shard) for shard in shards):
        raise _unmet(spec, clients, "a client would have no example")
    return shards


def _unmet(spec: str, clients: int, why: str) -> FedqError:
    return FedqError("FQ105", f"partition `{spec}` cannot be made for {clients} clients: {why}",
                     hint="fewer --clients, a larger alpha, or --partition iid")  # fmt: skip
