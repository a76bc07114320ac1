"""Data sets and how clients share them.

`DATA` names the data sets that have a loader of their own or a short name; any other name is a data set of the Hugging
Face hub (`owner/name`), and `--data-dir PATH` reads a folder in the hub's layout.
"""

from collections.abc import Callable
from pathlib import Path

from fedq.data.dataset import Dataset, Examples
from fedq.data.folders import within
from fedq.data.inputs import Inputs
from fedq.errors import FedqError, nearest
from fedq.plugins import find, names

DATA: dict[str, str] = {
    "digits": "fedq.data.digits:load",
    "mnist": "fedq.data.hub:mnist",
    "fashion_mnist": "fedq.data.hub:fashion_mnist",
    "cifar10": "fedq.data.hub:cifar10",
}


def load(
    name: str, folder: str, *, holdout: float, seed: int, columns: tuple[str, str] = ("", ""), by: str = ""
) -> Dataset:
    """Load a data set by name, from `folder` if that is not empty, or from the one of this name among those in it.

    `columns` are those of the texts and their labels, empty for images; `by` one that groups examples, if not empty.

    `holdout` is the share of the training data kept for testing where a data set has no test split, chosen by a
    permutation keyed with `seed`. FedqError FQ101, FQ201 or FQ202 if there is no such data or it cannot be used.
    """
    folder = str(Path(folder).expanduser()) if folder else ""
    if folder and not Path(folder).is_dir():
        raise FedqError(
            "FQ201",
            f"there is no folder `{folder}`",
            key="data.dir",
            hint="a folder in the hub's layout holds parquet files or images, and usually a README.md",
        )
    if name == "digits" and folder:
        raise FedqError(
            "FQ105",
            "`digits` come with scikit-learn and are not read from a folder",
            key="data.dir",
            hint="name your data: --data NAME --data-dir PATH",
        )
    folder = within(folder, name) if folder else ""
    if any(columns) and not all(columns):
        lacks = "data.label_column" if columns[0] else "data.text_column"
        raise FedqError(
            "FQ105",
            "texts need both columns: that of the texts and that of their labels",
            key=lacks,
            hint="--text-column COLUMN --label-column COLUMN",
        )
    if any(columns):
        from fedq.data import text

        if not folder and "/" not in name:
            raise FedqError("FQ105", f"`{name}` are no texts", key="data.name", hint="--data-dir DIR, or owner/name")
        return text.load(name, name, folder, *columns, by, holdout=holdout, seed=seed)
    if name not in names("data set", DATA):
        if not folder and "/" not in name:
            raise FedqError(
                "FQ101",
                f"unknown data set `{name}`",
                key="data.name",
                hint=f"{nearest(name, DATA)}; data sets of the hub are written owner/name",
            )
        from fedq.data import hub

        return hub.load(name, name, folder, holdout=holdout, seed=seed, by=by)
    loader: Callable[..., Dataset] = find("data set", name, DATA)
    if by:
        raise FedqError(
            "FQ105",
            f"`{name}` has no column `{by}`",
            key="data.partition",
            hint="--data-dir reads a folder with such a column; iid, dirichlet:ALPHA and fedau:ALPHA need none",
        )
    return loader(folder=folder, holdout=holdout, seed=seed)


__all__ = ["DATA", "Dataset", "Examples", "Inputs", "load"]
