"""Handwritten digits that come with scikit-learn: 1,797 images of 8 x 8 in 17 greys. No download."""

from dataclasses import replace
from importlib.metadata import distribution

import numpy as np

from fedq.data.dataset import Dataset, Examples, hold_out


def load(*, folder: str, holdout: float, seed: int) -> Dataset:
    """The digits, `holdout` of them for testing, chosen by a permutation keyed with `seed`."""
    library = distribution("scikit-learn")  # found, not imported: that takes longer than a short run
    rows = np.loadtxt(str(library.locate_file("sklearn/datasets/data/digits.csv.gz")), np.uint8, delimiter=",")
    examples = Examples(rows[:, :64].reshape(-1, 1, 8, 8), rows[:, 64].astype(np.int64))
    return replace(hold_out("digits", examples, 10, share=holdout, seed=seed), white=16)
