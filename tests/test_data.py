"""Data sets and partitions: the embedded digits, folders in the hub's layout, and folders that are not."""

from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value

from fedq.data import load
from fedq.data.partition import partition
from fedq.errors import FedqError
from fedq.rng import rng


def hub_folder(
    path: Path, *, column: str = "image", colour: bool = False, test: bool = True, sizes: tuple[int, ...] = (12,)
) -> Path:
    """A small labelled image set as parquet, the way the hub lays it out."""
    features = Features({column: Image(), "label": ClassLabel(names=["cat", "dog", "owl"])})
    path.mkdir(parents=True)
    for split, n in (("train", 30), ("test", 12)) if test else (("train", 30),):
        random = rng(0, split)
        shapes = [(sizes[i % len(sizes)], 12, *((3,) if colour else ())) for i in range(n)]
        pictures = [random.integers(0, 256, s, np.uint8) for s in shapes]
        Dataset.from_dict({column: pictures, "label": [i % 3 for i in range(n)]}, features=features).to_parquet(
            path / f"{split}-00000-of-00001.parquet"
        )
    return path


def test_digits() -> None:
    from sklearn.datasets import load_digits

    data = load("digits", "", holdout=0.2, seed=0)
    (whole,), theirs = data.source, load_digits()
    assert (whole.x[:, 0] == theirs.images).all()
    assert (whole.y == theirs.target).all()
    assert (data.shape, len(data.train), len(data.test), data.classes) == ((1, 8, 8), 1438, 359, 10)
    assert load("digits", "", holdout=0.2, seed=0).checksum == data.checksum
    other = load("digits", "", holdout=0.2, seed=1)
    assert other.checksum == data.checksum
    assert (other.test.y[:100] != data.test.y[:100]).any()
    x, y = data.tensors(data.train)
    assert abs(float(x.mean())) < 1e-5
    assert abs(float(x.std()) - 1) < 1e-3
    assert y.bincount().min() > 100


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("column", ["image", "img"])
def test_hub_layout(tmp_path: Path, colour: bool, column: str) -> None:
    folder = hub_folder(tmp_path / "set", column=column, colour=colour)
    data = load("mine", str(folder), holdout=0.2, seed=0)
    assert (data.shape, len(data.train), len(data.test), data.classes) == ((3 if colour else 1, 12, 12), 30, 12, 3)
    original = rng(0, "train").integers(0, 256, (12, 12, *((3,) if colour else ())), np.uint8)
    stored = data.train.x[0].transpose(1, 2, 0) if colour else data.train.x[0, 0]
    assert (stored == original).all()


def test_hub_layout_without_a_test_split(tmp_path: Path) -> None:
    data = load("mine", str(hub_folder(tmp_path / "set", test=False)), holdout=0.2, seed=0)
    assert (len(data.train), len(data.test)) == (24, 6)


def test_a_folder_of_several_data_sets(tmp_path: Path) -> None:
    """The one that is named is read, and no mixture where none is; folders of splits are one data set."""
    for name, colour in (("one", False), ("deep/two", True)):
        hub_folder(tmp_path / name, colour=colour)
    assert load("two", str(tmp_path), holdout=0.2, seed=0).shape == (3, 12, 12)
    with pytest.raises(FedqError, match="several data sets, and none is called `tow`") as said:
        load("tow", str(tmp_path), holdout=0.2, seed=0)
    assert "deep/two" in said.value.hint
    split = tmp_path / "one"
    for part in ("train", "test"):
        (split / part).mkdir()
        next(split.glob(f"{part}-*")).rename(split / part / "0.parquet")
    assert len(load("mine", str(split), holdout=0.2, seed=0).test) == 12


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    Dataset.from_dict(
        {"text": ["a", "b"], "label": [0, 1]}, features=Features({"text": Value("string"), "label": ClassLabel(2)})
    ).to_parquet(tmp_path / "text" / "train.parquet")
    cases = {
        "empty": "cannot be read as a data set",
        "text": "has no column of images; it has text (string)",
        "sizes": "has images of 2 sizes",
    }
    hub_folder(tmp_path / "sizes", sizes=(12, 10))
    for folder, says in cases.items():
        with pytest.raises(FedqError) as error:
            load("mine", str(tmp_path / folder), holdout=0.2, seed=0)
        assert says in error.value.message
        assert (error.value.code, error.value.exit_code) == ("FQ202", 4)


@pytest.mark.parametrize("spec", ["iid", "dirichlet:0.5", "dirichlet:100"])
def test_partitions_are_disjoint_and_keyed(spec: str) -> None:
    labels = rng(0, "labels").integers(0, 10, 1000)
    shards = partition(labels, spec, 8, 0)
    taken = np.concatenate(shards)
    assert len(np.unique(taken)) == len(taken) == 1000
    assert all(len(s) for s in shards)
    assert all((a == b).all() for a, b in zip(shards, partition(labels, spec, 8, 0), strict=True))
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(shards, partition(labels, spec, 8, 1), strict=True))


def test_partitions_are_shuffled_and_skewed_as_said() -> None:
    labels = np.sort(rng(0, "labels").integers(0, 10, 2000))

    def spread(spec: str) -> float:
        """Mean share of a client's commonest class."""
        return float(np.mean([np.bincount(labels[s]).max() / len(s) for s in partition(labels, spec, 10, 0)]))

    assert spread("iid") < 0.18
    assert spread("iid") < spread("dirichlet:0.5") < spread("dirichlet:0.05")


def test_partition_that_cannot_be_made() -> None:
    with pytest.raises(FedqError) as error:
        partition(np.zeros(5, np.int64), "iid", 6, 0)
    assert error.value.code == "FQ105"


def test_fashion_mnist(data_dir: Path) -> None:
    data = load("fashion_mnist", str(data_dir / "fashion_mnist"), holdout=0.2, seed=0)
    assert (data.shape, len(data.train), len(data.test), data.classes) == ((1, 28, 28), 60_000, 10_000, 10)
    mean, std = (float(m) / 255 for m in data._moments)
    assert (round(mean, 4), round(std, 4)) == (0.2860, 0.3530)


def encoded(mode: str, n: int = 12) -> list[bytes]:
    """n PNG files of 12 x 12 in one of Pillow's modes."""
    from io import BytesIO

    from PIL import Image as Pillow

    files = []
    for i in range(n):
        grey = Pillow.fromarray(rng(0, mode, i).integers(0, 256, (12, 12), np.uint8))
        picture = Pillow.fromarray(np.full((12, 12), 256 * i + 1, np.uint16)) if mode == "I;16" else grey.convert(mode)
        picture.save(buffer := BytesIO(), "PNG")
        files.append(buffer.getvalue())
    return files


def folder_of(path: Path, files: list[bytes], labels: list[int | None]) -> str:
    path.mkdir()
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    pictures = [{"bytes": f, "path": None} for f in files]
    Dataset.from_dict({"image": pictures, "label": labels}, features=features).to_parquet(path / "train.parquet")
    return str(path)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)])
def test_image_modes(tmp_path: Path, mode: str, channels: int) -> None:
    """Palettes, alpha and one-bit images become grey or RGB of 8 bits, as a person would see them."""
    data = load("mine", folder_of(tmp_path / "set", encoded(mode), [0, 1] * 6), holdout=0.5, seed=0)
    assert data.shape == (channels, 12, 12)
    assert data.train.x.max() > 200


def test_mixed_grey_and_colour(tmp_path: Path) -> None:
    data = load(
        "mine", folder_of(tmp_path / "set", encoded("L", 6) + encoded("RGB", 6), [0, 1] * 6), holdout=0.5, seed=0
    )
    assert data.shape == (3, 12, 12)


def test_images_and_labels_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FedqError, match="mode I;16"):
        load("mine", folder_of(tmp_path / "deep", encoded("I;16"), [0, 1] * 6), holdout=0.5, seed=0)
    with pytest.raises(FedqError, match="without a label"):
        load("mine", folder_of(tmp_path / "none", encoded("L"), [0, None] * 6), holdout=0.5, seed=0)


def test_a_folder_needs_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(FedqError, match="not read from a folder"):
        load("digits", str(tmp_path), holdout=0.2, seed=0)
