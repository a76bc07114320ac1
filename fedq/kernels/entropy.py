"""Ternary votes near their entropy: base 3, or the nonzero plane and the signs, each coded where that is shorter."""

from typing import final

import numpy as np

from fedq.kernels import active as kernels
from fedq.kernels._reference import U8
from fedq.kernels._reference_rans import RANS_BLOCK
from fedq.kernels.ternary import Planes

_BASE3, _MASK_SIGN = 0, 1
_MASK, _SIGNS = 1, 2  # added to _MASK_SIGN where that part is coded


@final
class TernaryEntropy(Planes):
    """A form byte, then base 3; or the nonzero plane and the nonzeros' signs, either perhaps coded (rANS).

    Base 3 is never beaten near p(0) = 1/3, so a payload is at most one byte longer than that.
    """

    name = "ternary_entropy"

    def nbytes(self, d: int) -> int:
        """The most: base 3."""
        return 1 + -(-d // 5)

    def lengths(self, d: int) -> range:
        """Up to base 3; the exact length is known only from the bytes."""
        return range(1, self.nbytes(d) + 1)

    def write(self, planes: U8, d: int) -> U8:
        """The shortest form."""
        form, body, width = _MASK_SIGN, [], planes.shape[1]
        masked = kernels.pack_mask_sign(planes, d)
        for mark, part in ((_MASK, masked[:width]), (_SIGNS, masked[width:])):
            coded = kernels.rans_encode(part)
            form += mark if len(coded) < len(part) else 0
            body.append(coded if len(coded) < len(part) else part)
        if sum(map(len, body)) >= -(-d // 5):
            form, body = _BASE3, [kernels.pack_base3(planes, d)]
        return np.concatenate([np.array([form], np.uint8), *body])

    def read(self, packed: U8, d: int) -> U8:
        """The two planes."""
        form, body = int(packed[0]), packed[1:]
        if form == _BASE3 and len(body) == -(-d // 5):
            planes, canonical = kernels.unpack_base3(body, d)
        elif _MASK_SIGN <= form <= _MASK_SIGN + _MASK + _SIGNS:
            mask, rest = self._part(body, -(-d // 8), coded=bool(form - _MASK_SIGN & _MASK))
            signs, rest = self._part(rest, -(-kernels.count_ones(mask) // 8), coded=bool(form - _MASK_SIGN & _SIGNS))
            planes, canonical = kernels.unpack_mask_sign(np.concatenate([mask, signs, rest]), d)
        else:
            raise self.malformed("no such form, or of another length")
        if not canonical:
            raise self.malformed("bytes that no encoder writes")
        return planes

    def _part(self, body: U8, n: int, *, coded: bool) -> tuple[U8, U8]:
        """The `n` bytes that stand at the beginning of `body`, and what follows them."""
        if not coded:
            return body[:n], body[n:]
        short = len(body) < 2 * -(-n // RANS_BLOCK)  # told before memory is taken for n bytes
        part, used = (body, 0) if short else kernels.rans_decode(body, n)
        if not used:
            raise self.malformed("a code that no encoder writes")
        return part, body[used:]
