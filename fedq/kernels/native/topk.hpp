// The k largest magnitudes, exactly: a threshold from a sample, the few candidates above it, then a selection among them.
#pragma once
#include <stdlib.h>

#include "simd.hpp"

namespace {

INLINE u32 magnitude(const float* x, u64 i) { return load<u32>(x + i) & 0x7fffffff; }

// The k-th largest of n keys (1 <= k <= n), and how many keys are larger: three digits, most significant first.
template <class KeyOf>
INLINE u32 nth(u64 n, u64 k, u64* larger, KeyOf key) {
  static const int SHIFT[3] = {20, 9, 0}, SIZE[3] = {11, 11, 9};
  u32 prefix = 0, mask = 0;
  u64 above = 0;
  for (int digit = 0; digit < 3; ++digit) {
    u64 count[2048] = {};
    u32 low = (1u << SIZE[digit]) - 1;
    for (u64 i = 0; i < n; ++i) {
      u32 m = key(i);
      if ((m & mask) == prefix) ++count[m >> SHIFT[digit] & low];
    }
    u32 bin = low;
    while (above + count[bin] < k) above += count[bin--];
    prefix |= bin << SHIFT[digit];
    mask |= low << SHIFT[digit];
  }
  *larger = above;
  return prefix;
}

// Indices, ascending, and values of magnitudes of at least `low`; stops and returns capacity + 1 when there are more.
INLINE u64 candidates(const float* x, u64 d, u32 low, u32* index, float* value, u64 capacity) {
  u64 n = 0, i = 0;
#if defined(__AVX512F__)
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i bound = _mm512_set1_epi32((i32)low), magnitudes = _mm512_set1_epi32(0x7fffffff);
  for (; i + 64 <= d; i += 64) {
    __m512i v[4];
    __mmask16 over[4];
    for (int k = 0; k < 4; ++k) {
      prefetch((const char*)(x + i + 16 * k) + AHEAD);
      v[k] = _mm512_loadu_si512(x + i + 16 * k);
      over[k] = _mm512_cmpge_epu32_mask(_mm512_and_si512(v[k], magnitudes), bound);
    }
    if (!(over[0] | over[1] | over[2] | over[3])) continue;
    if (n + 64 > capacity) return capacity + 1;
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      __m512i at = _mm512_add_epi32(lane, _mm512_set1_epi32((i32)(i + 16 * (u64)k)));
      _mm512_storeu_si512(index + n, _mm512_maskz_compress_epi32(over[k], at));
      _mm512_storeu_si512(value + n, _mm512_maskz_compress_epi32(over[k], v[k]));
      n += (u64)__builtin_popcount(over[k]);
    }
  }
#else
  for (; i + 4 * W <= d; i += 4 * W) {
    u64 over = 0;
    for (int k = 0; k < 4; ++k) {
      prefetch((const char*)(x + i + k * W) + AHEAD);
      over |= (u64)lanes_less(I{} + ((i32)low - 1), (I)loadf(x + i + k * W) & 0x7fffffff) << k * W;
    }
    if (!over) continue;
    if (n + 4 * W > capacity) return capacity + 1;
    for (; over; over &= over - 1, ++n) {
      index[n] = (u32)(i + (u64)__builtin_ctzll(over));
      memcpy(value + n, x + index[n], 4);
    }
  }
#endif
  for (; i < d; ++i) {
    if (magnitude(x, i) < low) continue;
    if (n == capacity) return capacity + 1;
    index[n] = (u32)i;
    memcpy(value + n++, x + i, 4);
  }
  return n;
}

// Ascending indices and values of the k largest magnitudes, ties to the lowest index; 0, or -1 where memory ran out.
int topk(const float* x, u64 d, u64 k, u32* out_index, float* out_value) {
  if (!k) return 0;
  constexpr u64 SAMPLE = 16384;
  u64 capacity = d, larger = 0;
  u32 low = 0;
  if (d > 8 * SAMPLE) {
    u32* sample = (u32*)malloc(SAMPLE * 4);
    if (!sample) return -1;
    for (u64 s = 0; s < SAMPLE; ++s)  // spread over the array, with a jitter against periodic layouts
      sample[s] = magnitude(x, (u64)((unsigned __int128)(s * 0x9E3779B97F4A7C15) * d >> 64));
    u64 expected = k * SAMPLE / d, spread = 1;
    while (spread * spread < expected + 1) ++spread;
    u64 rank = expected + 4 * spread + 8;  // four deviations above: enough candidates all but surely
    if (rank < SAMPLE) {
      low = nth(SAMPLE, rank, &larger, [&](u64 i) INLINE_LAMBDA { return sample[i]; });
      capacity = least(d, 2 * rank * (d / SAMPLE + 1) + 64);
    }
    free(sample);
  }
  u32* index = 0;
  float* value = 0;
  u64 n = capacity + 1;
  if (low) {
    index = (u32*)malloc(4 * capacity), value = (float*)malloc(4 * capacity);
    if (index && value) n = candidates(x, d, low, index, value, capacity);
  }
  bool few = n >= k && n <= capacity;
  const float* from = few ? value : x;
  u64 total = few ? n : d;
  u32 kth = nth(total, k, &larger, [&](u64 i) INLINE_LAMBDA { return magnitude(from, i); });
  u64 ties = k - larger, done = 0;
  for (u64 i = 0; i < total && done < k; ++i) {
    u32 m = magnitude(from, i);
    if (m < kth || (m == kth && ties == 0)) continue;
    ties -= m == kth;
    out_index[done] = few ? index[i] : (u32)i;
    memcpy(out_value + done++, from + i, 4);
  }
  free(index), free(value);
  return 0;
}

}  // namespace
