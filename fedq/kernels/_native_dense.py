"""The native gradient of stacked dense networks, under the name of the specification."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedq.kernels import _native
from fedq.kernels._checks import address
from fedq.kernels._reference import F32
from fedq.kernels._reference_dense import I64, Chain, checked_batches, raise_for_labels


def dense_gradient(chain: Chain, w_KD: F32, x_KB: F32, labels_KB: I64) -> tuple[F32, F32]:
    """See `_reference_dense`."""
    K, B = checked_batches(chain, w_KD, x_KB, labels_KB)
    loss_K, g_KD = np.empty(K, np.float32), np.empty((K, chain.d), np.float32)
    if K:
        arrays = [_by_rows(array) for array in (w_KD, x_KB, labels_KB)]
        rows = [part for array in arrays for part in (address(array), array.strides[0] // array.itemsize)]
        failed = _native.call("dense_gradient", *chain.place, K, B, chain.d, *rows, address(loss_K), address(g_KD))
        if failed > 0:
            raise_for_labels(chain)
        if failed:
            raise MemoryError
    return loss_K, g_KD


def _by_rows(array: NDArray[Any]) -> NDArray[Any]:
    """Each row contiguous, whatever lies between two of them: views of longer rows, or one row for all."""
    whole = array.strides[0] % array.itemsize == 0 and array[0].flags.c_contiguous
    return array if whole else np.ascontiguousarray(array)
