"""Clients beyond number: each draws its examples when it is played, by seed and client; nothing is listed.

Partitions overlap: a client's examples are drawn from the whole training set, without repetition within the client.
"""

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any, final, overload

import numpy as np
from numpy.typing import NDArray

from fedq.data.partition import parse, partition
from fedq.rng import Places

EXAMPLES = 50  # of a client, where it is not said
CACHED = 20_000  # clients whose examples are kept at hand


@final
class Drawn(Sequence[NDArray[np.int64]]):
    """The examples of each of `clients` clients, drawn on demand: indices into `labels`, `size` of them or fewer.

    `iid` draws from all alike. `dirichlet:ALPHA` draws the client's mix of labels in proportion to Gamma(ALPHA) times
    the label's number of examples, the law of `partition`'s clients when there are many; `fedau:ALPHA` draws
    Dir(ALPHA). Of a label that has fewer examples than the mix wants, the client has all.
    """

    def __init__(self, labels: NDArray[np.int64], spec: str, clients: int, size: int, seed: int) -> None:
        (self._name, self._alpha), self._clients, self._seed = parse(spec), clients, seed
        self._size, self._all = min(size, len(labels)), len(labels)
        order = np.argsort(labels, kind="stable")
        present_L, starts_L = np.unique(labels[order], return_index=True)
        self._of_label = np.split(order, starts_L[1:]) if len(present_L) else []
        self._cached: OrderedDict[int, NDArray[np.int64]] = OrderedDict()
        self._lock, self._places = Lock(), Places(seed, "partition")

    def __len__(self) -> int:
        return self._clients

    @overload
    def __getitem__(self, client: int) -> NDArray[np.int64]: ...
    @overload
    def __getitem__(self, client: slice) -> Sequence[NDArray[np.int64]]: ...
    def __getitem__(self, client: Any) -> Any:
        """The examples of one client."""
        if not 0 <= client < self._clients:
            raise IndexError(client)
        with self._lock:
            if client not in self._cached:
                self._cached[client] = self._draw(self._places.at(client))
                if len(self._cached) > CACHED:
                    self._cached.popitem(last=False)
            return self._cached[client]

    def __reduce__(self) -> Any:
        return _restored, ({k: v for k, v in vars(self).items() if k not in ("_cached", "_lock", "_places")},)

    def _draw(self, random: np.random.Generator) -> NDArray[np.int64]:
        if self._name == "iid":
            return random.choice(self._all, self._size, replace=False)
        q_L = random.dirichlet(np.full(len(self._of_label), self._alpha))
        if self._name == "dirichlet":
            q_L *= [len(own) for own in self._of_label]
        wanted_L = random.multinomial(self._size, q_L / q_L.sum())
        pairs = zip(self._of_label, wanted_L, strict=True)
        own = [random.choice(of, min(n, len(of)), replace=False) for of, n in pairs if n]
        return np.concatenate(own)


def _restored(values: dict[str, Any]) -> Drawn:
    drawn = Drawn.__new__(Drawn)
    vars(drawn).update(values, _cached=OrderedDict(), _lock=Lock(), _places=Places(values["_seed"], "partition"))
    return drawn


def shares(
    labels: NDArray[np.int64], spec: str, clients: int, seed: int, each: int | None = None
) -> Sequence[NDArray[np.int64]]:
    """Indices into `labels` for each client: disjoint, or drawn on demand.

    They are drawn, `each` a client, where that is given or there are more clients than examples.
    """
    if each is None and clients <= len(labels):
        return partition(labels, spec, clients, seed)
    return Drawn(labels, spec, clients, each or EXAMPLES, seed)
