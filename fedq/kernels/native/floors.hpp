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

// `out` aligned to 64 bytes.
void floor_write(u8* out, u64 nbytes) {
  u64 i = 0;
  for (; i + V <= nbytes; i += V) {
#if defined(__AVX512F__)
    _mm512_stream_si512((__m512i*)(out + i), _mm512_setzero_si512());
#elif defined(__AVX2__)
    _mm256_stream_si256((__m256i*)(out + i), _mm256_setzero_si256());
#elif defined(__SSE2__)
    _mm_stream_si128((__m128i*)(out + i), _mm_setzero_si128());
#else
    storev(out + i, Q{});
#endif
  }
  memset(out + i, 0, nbytes - i);
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace
