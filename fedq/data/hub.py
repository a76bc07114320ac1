"""Image data sets of the Hugging Face hub, or local folders in the hub's layout."""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np
from numpy.typing import NDArray

from fedq.data.dataset import Dataset, Examples, hold_out
from fedq.errors import FedqError, nearest

GREY, COLOUR = {"L", "1", "LA"}, {"RGB", "RGBA", "P", "CMYK", "YCbCr", "HSV"}  # Pillow's modes of 8 bits a channel


def load(name: str, path: str, folder: str, *, holdout: float, seed: int, by: str = "") -> Dataset:
    """Read the data set at hub address `path`, or in `folder`; the first image and class-label columns are used.

    `by`, if not empty, is a column that groups the examples.

    Without a `test` or `validation` split, a share `holdout` of the training split is held out. FedqError FQ201 if it
    is not there, FQ202 if it holds no labelled images of one size.
    """
    train, test = split(name, read(path, folder))
    image, label, classes = _columns(name, train)
    examples, labels = _decode(name, train, image, label, by), tuple(getattr(train.features[label], "names", ()))
    if test is None:
        return replace(hold_out(name, examples, classes, share=holdout, seed=seed), labels=labels)
    return Dataset(name, examples, _decode(name, test, image, label, ""), classes, labels=labels)


mnist = partial(load, "mnist", "ylecun/mnist")
fashion_mnist = partial(load, "fashion_mnist", "zalando-datasets/fashion_mnist")
cifar10 = partial(load, "cifar10", "uoft-cs/cifar10")


def read(path: str, folder: str) -> Any:
    """The splits of a data set. FedqError FQ201 or FQ202 if there is none."""
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)  # a README without metadata is no news
    try:
        with nullcontext() if folder or _reachable() else _offline():
            return datasets.load_dataset(folder or path)
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FedqError(
            "FQ202" if folder else "FQ201",
            f"`{folder}` cannot be read as a data set: {first}"
            if folder
            else f"`{path}` is not on this machine: {first}",
            key="data.dir" if folder else "data.name",
            hint="a folder in the hub's layout holds parquet files or images by split"
            if folder
            else "give its folder with --data-dir PATH, connect to the network, or use --data digits",
        ) from error


def _reachable() -> bool:
    """Whether the hub answers at all: its client would try for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or any(getproxies().get(kind) for kind in ("https", "all")):
        return not constants.HF_HUB_OFFLINE
    address = urlsplit(constants.ENDPOINT)
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=3).close()
    except OSError:
        return False
    return True


@contextmanager
def no_copies() -> Iterator[None]:
    """Within it, a folder that is read leaves no copy of its data in the user's cache."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    with TemporaryDirectory(prefix="fedq-") as folder:
        datasets.config.HF_DATASETS_CACHE = folder
        try:
            yield
        finally:
            datasets.config.HF_DATASETS_CACHE = before


@contextmanager
def _offline() -> Iterator[None]:
    """The hub's client asks its cache only."""
    import datasets
    from huggingface_hub import constants

    switches: tuple[Any, ...] = (constants, datasets.config)
    before = [module.HF_HUB_OFFLINE for module in switches]
    for module in switches:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, was in zip(switches, before, strict=True):
            module.HF_HUB_OFFLINE = was


def split(name: str, splits: Any) -> tuple[Any, Any | None]:
    """The training split, and the one for testing if there is any. FedqError FQ202 without a training split."""
    if "train" not in splits:
        raise FedqError("FQ202", f"`{name}` has no split named train; it has {', '.join(splits)}", key="data.name")
    return splits["train"], next((splits[k] for k in ("test", "validation") if k in splits), None)


def column(name: str, split: Any, wanted: str, key: str) -> list[Any]:
    """The values of a column. FedqError FQ202 if there is none of this name."""
    if wanted not in split.column_names:
        hint = nearest(wanted, split.column_names)
        raise FedqError("FQ202", f"`{name}` has no column `{wanted}`", key=key, hint=hint)
    return list(split[wanted])


def groups(name: str, split: Any, by: str) -> NDArray[np.str_] | None:
    """What a column says of each row, as text; None if no column is wanted."""
    return np.array([str(v) for v in column(name, split, by, "data.partition")]) if by else None


def _columns(name: str, split: Any) -> tuple[str, str, int]:
    from datasets import ClassLabel, Image

    features = split.features
    image = next((c for c, kind in features.items() if isinstance(kind, Image)), None)
    label = next((c for c, kind in features.items() if isinstance(kind, ClassLabel)), None)
    if label is None and "label" in features and str(features["label"].dtype).startswith("int"):
        label = "label"
    if image is None or label is None:
        lacks = "images" if image is None else "class labels"
        columns = ", ".join(f"{c} ({getattr(kind, 'dtype', type(kind).__name__)})" for c, kind in features.items())
        raise FedqError("FQ202", f"`{name}` has no column of {lacks}; it has {columns}", key="data.name")
    kind = features[label]
    classes = kind.num_classes if isinstance(kind, ClassLabel) else 1 + max(y for y in split[label] if y is not None)
    return image, label, classes


def _decode(name: str, split: Any, image: str, label: str, by: str) -> Examples:
    labels = split[label]
    if any(y is None for y in labels):
        raise FedqError("FQ202", f"`{name}` has examples without a label", key="data.name")
    try:
        pictures = list(split[image])
        modes = {picture.mode for picture in pictures}
    except Exception as error:
        raise FedqError("FQ202", f"the images of `{name}` cannot be decoded: {error}", key="data.name") from error
    if strange := modes - GREY - COLOUR:
        raise FedqError(
            "FQ202",
            f"`{name}` has images of mode {', '.join(sorted(strange))}: fedq takes 8 bits a channel",
            key="data.name",
            hint="convert them to grey or RGB first",
        )
    mode = "L" if modes <= GREY else "RGB"
    sizes = {picture.size for picture in pictures}
    if len(sizes) > 1:
        raise FedqError(
            "FQ202",
            f"`{name}` has images of {len(sizes)} sizes, such as {sorted(sizes)[:2]}",
            key="data.name",
            hint="crop or resize them to one size first",
        )
    x = np.stack([np.asarray(p if p.mode == mode else p.convert(mode)) for p in pictures])
    channels_first = x[:, None] if mode == "L" else x.transpose(0, 3, 1, 2)
    return Examples(np.ascontiguousarray(channels_first), np.asarray(labels, np.int64), groups(name, split, by))
