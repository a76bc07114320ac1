"""A client's own data, at its site: read from a folder, and checked against what the server says of the run's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedq.data.dataset import Dataset, Examples
from fedq.errors import FedqError


def told_of(data: Dataset, columns: Sequence[str]) -> dict[str, Any]:
    """What the server tells sites of its data: the classes and their names, and what an example is.

    That is the columns of texts and their labels; or the shape of an image, its brightest byte, and its scale.
    """
    told = {"classes": data.classes, "labels": list(data.labels)}
    if data.texts:
        return {**told, "columns": list(columns)}
    mean, std = (moment.tolist() for moment in data.moments)
    return {**told, "shape": list(data.shape), "white": data.white, "mean": mean, "std": std}


def read_own(folder: str, told: Mapping[str, Any]) -> Examples:
    """All examples of a folder, images in the hub's layout or texts in its columns; `told` is what `told_of` said.

    FedqError FQ201 or FQ202 if they are not there or not the run's. Where both sides name their classes, the names
    count, so a site may lack some.
    """
    from fedq.data import hub, text

    with hub.no_copies():
        if "columns" in told:
            words, label = told["columns"]
            found = text.load("the site's data", folder, folder, words, label, "", holdout=0.5, seed=0)
        else:
            found = hub.load("the site's data", folder, folder, holdout=0.5, seed=0)
    own = found.source[0] if found.source else found.train  # nothing of it is held out
    if not found.texts and (list(found.shape) != list(told["shape"]) or found.white != told["white"]):
        raise FedqError(
            "FQ202",
            f"the site's images are {list(found.shape)} up to {found.white}, the run's {list(told['shape'])} "
            f"up to {told['white']}",
            where=folder,
            hint="give the folder of this run's task: fedq deploy client --data-dir PATH",
        )
    return Examples(own.x, _numbered(own.y, found.labels, told, folder))


def site_dataset(own: Examples, told: Mapping[str, Any]) -> Dataset:
    """A site's examples as its client sees them: on the scale of the server's, as all sites are."""
    if "columns" in told:
        return Dataset("site", own, own, int(told["classes"]))
    scale = (np.array(told["mean"]), np.array(told["std"]))
    return Dataset("site", own, own, int(told["classes"]), white=int(told["white"]), scale_by=scale)


def _numbered(y: NDArray[np.int64], names: Sequence[str], told: Mapping[str, Any], folder: str) -> NDArray[np.int64]:
    """Labels in the run's numbers: by their names, or as they are where either side has none."""
    runs = list(told["labels"])
    if names and runs:
        if strange := sorted({names[k] for k in np.unique(y)} - set(runs)):
            some = ", ".join(runs[:8]) + (" ..." if len(runs) > 8 else "")
            raise FedqError(
                "FQ202",
                f"the site has label `{strange[0]}`, and the run's are {some}",
                where=folder,
                hint="name the labels as the run's data do",
            )
        return np.array([runs.index(name) if name in runs else -1 for name in names], np.int64)[y]
    if (most := int(y.max())) >= told["classes"]:
        raise FedqError(
            "FQ202",
            f"the site has label {most}, and the run has classes 0 ... {told['classes'] - 1}",
            where=folder,
            hint="number the labels as the run's data do",
        )
    return y
