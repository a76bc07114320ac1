// The physical limits that the benchmarks compare with: pure reading, and pure non-temporal writing.
#pragma once
#include "simd.hpp"

namespace {

u64 floor_read(const u8* in, u64 nbytes) {
  Q sum[4] = {};
  u64 i = 0;
  for (; i + 4 * V <= nbytes; i += 4 * V)
    for (int k = 0; k < 4; ++k) {
      prefetch(in + i + k * V + AHEAD);
      sum[k] ^= loadq(in + i + k * V);
    }
  Q all = sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
  u64 out = 0;
  for (int l = 0; l < W / 2; ++l) out ^= all[l];
  for (; i < nbytes; ++i) out ^= in[i];
  return out;
}

// `out` aligned to 64 bytes. Not zeros: some machines write lines of zeros at a multiple of the speed of memory.
void floor_write(u8* out, u64 nbytes) {
  const Q value = (Q)fill(-1);
  u64 i = 0;
  for (; i + V <= nbytes; i += V) {
#if defined(__AVX512F__)
    _mm512_stream_si512((__m512i*)(out + i), (__m512i)value);
#elif defined(__AVX2__)
    _mm256_stream_si256((__m256i*)(out + i), (__m256i)value);
#elif defined(__SSE2__)
    _mm_stream_si128((__m128i*)(out + i), (__m128i)value);
#else
    storev(out + i, value);
#endif
  }
  memset(out + i, 0, nbytes - i);
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace
