"""A class-balanced set of examples that a server may hold, taken out of a data set."""

from dataclasses import replace
from typing import Literal

import numpy as np

from fedq.data.dataset import Dataset, Examples
from fedq.errors import FedqError
from fedq.rng import rng


def hold_proxy(
    data: Dataset, source: Literal["heldout", "test"], per_class: int, seed: int
) -> tuple[Dataset, Examples]:
    """The data set without the proxy set, and the proxy set: `per_class` examples of each class, drawn with `seed`.

    They come from the training data (`heldout`) or the test data (`test`), and are in neither of them afterwards.
    FedqError FQ105 if a class has too few.
    """
    of = data.test if source == "test" else data.train
    order = rng(seed, "proxy").permutation(len(of))
    taken = np.concatenate([order[of.y[order] == c][:per_class] for c in range(data.classes)])
    rest = np.setdiff1d(np.arange(len(of)), taken)
    if len(taken) < per_class * data.classes or not len(rest):
        fewest = int(np.bincount(of.y, minlength=data.classes).min())
        where = "test" if source == "test" else "training"
        raise FedqError(
            "FQ105",
            f"a proxy set of {per_class} a class cannot be taken: a class has {fewest} {where} examples",
            key="strategy.proxy_per_class",
            hint="lower strategy.proxy_per_class",
        )
    train, test = (data.train, of.take(rest)) if source == "test" else (of.take(rest), data.test)
    return replace(data, train=train, test=test, source=data.source or (data.train, data.test)), of.take(taken)
