"""Handwritten digits that come with scikit-learn: 1,797 images of 8 x 8 in 17 greys. No download."""

from dataclasses import replace

import numpy as np

from fedq.data.dataset import Dataset, Examples, hold_out


def load(*, folder: str, holdout: float, seed: int) -> Dataset:
    """The digits, `holdout` of them for testing, chosen by a permutation keyed with `seed`."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    examples = Examples(digits.images.astype(np.uint8)[:, None], digits.target.astype(np.int64))
    return replace(hold_out("digits", examples, 10, share=holdout, seed=seed), white=16)
