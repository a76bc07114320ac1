"""Image data sets of the Hugging Face hub, or local folders in the hub's layout."""

from functools import partial
from typing import Any

import numpy as np

from fedq.data.dataset import Dataset, Examples, hold_out
from fedq.errors import FedqError


def load(name: str, path: str, folder: str, *, holdout: float, seed: int) -> Dataset:
    """Read the data set at hub address `path`, or in `folder`; the first image and class-label columns are used.

    Without a `test` or `validation` split, a share `holdout` of the training split is held out. FedqError FQ201 if it
    is not there, FQ202 if it holds no labelled images of one size.
    """
    splits = _read(path, folder)
    if "train" not in splits:
        raise FedqError("FQ202", f"`{name}` has no split named train; it has {', '.join(splits)}")
    image, label, classes = _columns(name, splits["train"])
    train = _decode(name, splits["train"], image, label)
    test = next((splits[split] for split in ("test", "validation") if split in splits), None)
    if test is None:
        return hold_out(name, train, classes, share=holdout, seed=seed)
    return Dataset(name, train, _decode(name, test, image, label), classes)


mnist = partial(load, "mnist", "ylecun/mnist")
fashion_mnist = partial(load, "fashion_mnist", "zalando-datasets/fashion_mnist")
cifar10 = partial(load, "cifar10", "uoft-cs/cifar10")


def _read(path: str, folder: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(folder or path)
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FedqError(
            "FQ202" if folder else "FQ201",
            f"`{folder}` cannot be read as a data set: {first}"
            if folder
            else f"`{path}` is not on this machine: {first}",
            where=f"--data-dir {folder}" if folder else f"--data {path}",
            hint="a folder in the hub's layout holds parquet files or images by split"
            if folder
            else "give its folder with --data-dir PATH, connect to the network, or use --data digits",
        ) from error


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
        raise FedqError("FQ202", f"`{name}` has no column of {lacks}; it has {columns}")
    kind = features[label]
    classes = kind.num_classes if isinstance(kind, ClassLabel) else int(max(split[label])) + 1
    return image, label, classes


def _decode(name: str, split: Any, image: str, label: str) -> Examples:
    try:
        pictures = [np.asarray(picture) for picture in split[image]]
        x = np.stack(pictures).astype(np.uint8, copy=False)
    except Exception as error:
        raise FedqError(
            "FQ202",
            f"the images of `{name}` cannot be stacked: {error}",
            hint="all images must decode, and have one size and one number of channels",
        ) from error
    channels_first = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
    return Examples(np.ascontiguousarray(channels_first), np.asarray(split[label], np.int64))
