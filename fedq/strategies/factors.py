"""Aggregation of low-rank factors. Client k of K sends A_k [r, in] and B_k [out, r]; its weight is p_k, with sum 1.

What a layer gains is B_k A_k, so the mean of products is wanted. The product of means differs from it by the factors'
covariance, sum_k p_k (B_k - B)(A_k - A) with B, A their means: zero where all share a factor (FFA-LoRA, Sun et al.
2024), else the server must keep it (FLoRA, Wang et al. 2024) or fit the factors again (FlexLoRA, Bai et al. 2024).
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Factors = Sequence[tuple[F32, F32]]  # (A_k, B_k) of each client

A, B = ".lora_A.", ".lora_B."


def pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """The names of factors A and B that belong together."""
    known = set(names)
    return [(a, a.replace(A, B)) for a in names if A in a and a.replace(A, B) in known]


def layer(a: str) -> str:
    """The name of the weight that the factor named `a` stands beside."""
    return f"{a.partition(A)[0]}.base_layer.weight"


def stacked(factors: Factors, p: Sequence[float]) -> tuple[F32, F32]:
    """A [K r, in] and B [out, K r] whose product is the mean of products, exactly."""
    a = np.concatenate([np.float32(p_k) * a_k for (a_k, _), p_k in zip(factors, p, strict=True)])
    return a, np.concatenate([b_k for _, b_k in factors], axis=1)


def fitted(factors: Factors, p: Sequence[float], rank: int) -> tuple[F32, F32]:
    """A and B of this rank whose product is nearest to the mean of products (Eckart and Young).

    From the stacked factors' QR decompositions: no matrix of the layer's size is made.
    """
    a, b = stacked(factors, p)
    qa, ra = np.linalg.qr(a.T.astype(np.float64))
    qb, rb = np.linalg.qr(b.astype(np.float64))
    u, s, v = np.linalg.svd(rb @ ra.T)
    root = np.sqrt(s[:rank])
    return ((root[:, None] * v[:rank]) @ qa.T).astype(np.float32), (qb @ u[:, :rank] * root).astype(np.float32)
