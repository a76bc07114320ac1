"""Ternary votes near their entropy: the shortest of three forms, told by one byte in front."""

from typing import final

import numpy as np
import zstandard

from fedq.kernels import active as kernels
from fedq.kernels._reference import U8
from fedq.kernels.ternary import Planes

_BASE3, _MASK_SIGN, _ZSTD = range(3)
_LEVEL = 1  # higher levels look for matches that noise does not have


@final
class TernaryEntropy(Planes):
    """A form byte, then base 3; or the nonzero plane and the nonzeros' signs; or the same with the plane compressed.

    The compressed plane (zstd) follows its length as uint32. Base 3 is never beaten near p(0) = 1/3, so a payload is at
    most one byte longer than that.
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
        width = planes.shape[1]
        masked = kernels.pack_mask_sign(planes, d)
        plane = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False).compress(masked[:width].tobytes())
        sizes = {_BASE3: -(-d // 5), _MASK_SIGN: len(masked), _ZSTD: 4 + len(plane) + len(masked) - width}
        form = min(sizes, key=lambda f: sizes[f])
        if form == _BASE3:
            body = kernels.pack_base3(planes, d)
        elif form == _MASK_SIGN:
            body = masked
        else:
            packed = np.array(len(plane), "<u4").tobytes() + plane
            body = np.concatenate([np.frombuffer(packed, np.uint8), masked[width:]])
        return np.concatenate([np.array([form], np.uint8), body])

    def read(self, packed: U8, d: int) -> U8:
        """The two planes."""
        form, body = int(packed[0]), packed[1:]
        if form == _BASE3 and len(body) == -(-d // 5):
            planes, canonical = kernels.unpack_base3(body, d)
        elif form == _MASK_SIGN:
            planes, canonical = kernels.unpack_mask_sign(body, d)
        elif form == _ZSTD:
            planes, canonical = kernels.unpack_mask_sign(self._inflated(body, -(-d // 8)), d)
        else:
            raise self.malformed("no such form, or of another length")
        if not canonical:
            raise self.malformed("bytes that no encoder writes")
        return planes

    def _inflated(self, body: U8, width: int) -> U8:
        """Mask and signs, the mask decompressed to exactly `width` bytes: what its header claims is checked first."""
        n = int(np.frombuffer(body[:4].tobytes().ljust(4, b"\0"), "<u4")[0])
        if len(body) < 4 + n:
            raise self.malformed("the compressed plane is cut off")
        frame = body[4 : 4 + n].tobytes()
        try:
            if zstandard.frame_content_size(frame) != width:
                raise self.malformed("a compressed plane of another length")
            plane = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompress(frame, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise self.malformed(f"the compressed plane does not decompress: {error}") from error
        return np.concatenate([np.frombuffer(plane, np.uint8), body[4 + n :]])
