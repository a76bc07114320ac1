"""A client's own data, at its site: read from a folder, and checked against what the server says of the run's."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedq.data.dataset import Dataset, Examples
from fedq.errors import FedqError


def read_own(folder: str, told: Mapping[str, Any]) -> Examples:
    """All examples of a folder in the hub's layout. FedqError FQ201 or FQ202 if they are not there or not the run's.

    `told` is what the server says: the `shape` of an image, its brightest byte `white`, and the number of `classes`.
    """
    from fedq.data import hub

    found = hub.load("the site's data", folder, folder, holdout=0.1, seed=0)
    own = found.source[0] if found.source else found.train  # nothing of it is held out
    if list(found.shape) != list(told["shape"]) or found.white != told["white"]:
        raise FedqError(
            "FQ202",
            f"the site's images are {list(found.shape)} up to {found.white}, the run's {list(told['shape'])} "
            f"up to {told['white']}",
            where=folder,
            hint="give the folder of this run's task: fedq deploy client --data-dir PATH",
        )
    if (most := int(own.y.max())) >= told["classes"]:
        raise FedqError(
            "FQ202",
            f"the site has label {most}, and the run has classes 0 ... {told['classes'] - 1}",
            where=folder,
            hint="number the labels as the run's data do",
        )
    return own


def site_dataset(own: Examples, told: Mapping[str, Any]) -> Dataset:
    """A site's examples as its client sees them: on the scale of the server's, as all sites are."""
    scale = (np.array(told["mean"]), np.array(told["std"]))
    return Dataset("site", own, own, int(told["classes"]), white=int(told["white"]), scale_by=scale)
