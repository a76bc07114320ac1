"""What pairwise masks on vote counts cost a client, and what one lost client does to the sum.

    python benchmarks/masks.py

Secure aggregation in its natural form: clients i < j share a key, i adds a keystream of it modulo a power of two above
the number of clients, and j takes it off; the masks cancel in the sum. FedVote's LeNet-5 and 31 clients.
"""

import argparse
import secrets
import time
from math import ceil, log2

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray


def stream(key: bytes, n: int) -> NDArray[np.uint8]:
    """A byte of AES-CTR for each vote."""
    cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(cipher.update(bytes(n)), np.uint8)


def mask(i: int, keys: dict[tuple[int, int], bytes], clients: int, n: int) -> NDArray[np.uint8]:
    """What client i adds; sums wrap at 256, a multiple of every power of two below it."""
    total = np.zeros(n, np.uint8)
    for j in range(clients):
        if i < j:
            total += stream(keys[i, j], n)
        elif j < i:
            total -= stream(keys[j, i], n)
    return total


def packed(x: NDArray[np.uint8], bits: int) -> bytes:
    """The lowest `bits` of each value, plane by plane."""
    return b"".join(np.packbits(x >> b & 1).tobytes() for b in range(bits))


def main() -> None:
    """Print seconds, bytes and how many counts come out right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--votes", type=int, default=1_657_632)
    parser.add_argument("--clients", type=int, default=31)
    given = parser.parse_args()
    n, K = given.votes, given.clients
    bits, random = ceil(log2(K + 1)), np.random.default_rng(0)
    votes = random.integers(0, 2, (K, n), np.uint8)

    own, others = X25519PrivateKey.generate(), [X25519PrivateKey.generate().public_key() for _ in range(K - 1)]
    begun = time.process_time()
    for other in others:
        own.exchange(other)
    print(f"agreeing on {K - 1} keys: {time.process_time() - begun:.3f} s of CPU")

    keys = {(i, j): secrets.token_bytes(16) for i in range(K) for j in range(i + 1, K)}
    begun = time.process_time()
    first = votes[0] + mask(0, keys, K, n)
    print(f"masks: {time.process_time() - begun:.3f} s of CPU")
    begun = time.process_time()
    size = len(packed(first, bits))
    print(f"packing: {time.process_time() - begun:.3f} s of CPU")
    print(f"{bits} bits a vote: {size:,} bytes, where a vote alone takes {-(-n // 8):,}")

    sent = [first, *(votes[i] + mask(i, keys, K, n) for i in range(1, K))]
    right = (sum(sent) & (2**bits - 1)) == votes.sum(0)
    print(f"all are there: {right.mean():.1%} of the counts come out right")
    right = (sum(sent[:-1]) & (2**bits - 1)) == votes[:-1].sum(0)
    print(f"one of {K} is lost: {right.mean():.1%}")


if __name__ == "__main__":
    main()
