"""Labelled texts: of the Hugging Face hub, or a local folder of CSV, JSON or parquet files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedq.data import hub
from fedq.data.dataset import Dataset, Examples, hold_out
from fedq.errors import FedqError


def load(name: str, path: str, folder: str, text: str, label: str, by: str, *, holdout: float, seed: int) -> Dataset:
    """Read texts and their labels from the columns of these names; `by`, if not empty, groups the examples.

    Without a `test` or `validation` split, a share `holdout` of the training split is held out. FedqError FQ201 if the
    data are not there, FQ202 if they have no such columns or lack values.
    """
    splits = hub.read(path, folder)
    train, test = hub.split(name, splits)
    classes = _classes(_column(name, train, label, "data.label_column"))

    def made(split: Any) -> Examples:
        texts = _column(name, split, text, "data.text_column")
        labels = _column(name, split, label, "data.label_column")
        if strange := set(labels) - classes.keys():
            raise FedqError("FQ202", f"`{name}` is tested on labels without training examples: {sorted(strange)[:3]}")
        if not all(isinstance(t, str) for t in texts):
            raise FedqError("FQ202", f"column `{text}` of `{name}` holds more than texts", key="data.text_column")
        x: NDArray[Any] = np.empty(len(texts), object)
        x[:] = texts
        return Examples(x, np.array([classes[y] for y in labels], np.int64), hub.groups(name, split, by))

    labels = tuple(map(str, classes))
    if test is None:
        return replace(hold_out(name, made(train), len(classes), share=holdout, seed=seed), labels=labels)
    return Dataset(name, made(train), made(test), len(classes), labels=labels)


@final
@dataclass(frozen=True)
class TextInputs:
    """Texts as token ids, by the reader of the model that they are for."""

    data: Dataset
    reader: Callable[[Sequence[str]], NDArray[np.int32]]
    augment: str = "none"

    @property
    def shape(self) -> tuple[int, ...]:
        """The tokens of an example: one number."""
        return self.reader([""]).shape[1:]

    def tensors(self, examples: Examples) -> tuple[Tensor, Tensor]:
        """Token ids [N, T] and labels [N]."""
        return torch.from_numpy(self.reader(list(examples.x))), torch.from_numpy(examples.y)

    def training(self, x: Tensor, random: np.random.Generator) -> Tensor:
        """The ids themselves: nothing is augmented."""
        return x

    def testing(self, x: Tensor) -> Tensor:
        """The ids themselves."""
        return x


def _classes(labels: list[Any]) -> dict[Any, int]:
    return {label: k for k, label in enumerate(sorted(set(labels)))}


def _column(name: str, split: Any, column: str, key: str) -> list[Any]:
    values = hub.column(name, split, column, key)
    if any(v is None for v in values):
        raise FedqError("FQ202", f"column `{column}` of `{name}` has rows without a value", key=key)
    return values
