"""Which partitions take part in a round: a function of the seed and the round, never of Flower's random node ids."""

from collections.abc import Sequence
from dataclasses import dataclass

from flwr.serverapp import Grid

from fedq.rng import rng


@dataclass(frozen=True)
class Sampling:
    """`per_round` of `clients` partitions, uniformly without replacement."""

    seed: int
    clients: int
    per_round: int

    def partitions(self, round_: int, purpose: str = "sample") -> list[int]:
        """The partitions of a round, ascending."""
        if self.per_round == self.clients:
            return list(range(self.clients))
        chosen = rng(self.seed, purpose, round_).choice(self.clients, self.per_round, replace=False)
        return sorted(int(k) for k in chosen)


def nodes(grid: Grid) -> Sequence[int]:
    """Node ids with partition k at place k: in the grid's own order if it has one, else ascending."""
    ids = grid.get_node_ids()
    return ids if isinstance(ids, Sequence) else sorted(ids)
