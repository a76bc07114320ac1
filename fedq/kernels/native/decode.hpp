// Bits and planes to values: float32 or int8 of -1, (0,) +1.
#pragma once
#include "simd.hpp"

namespace {

// 8 bits -> 8 floats of -1 and +1.
struct Signs {
  float of[256][8];
  constexpr Signs() : of() {
    for (int bits = 0; bits < 256; ++bits)
      for (int i = 0; i < 8; ++i) of[bits][i] = bits >> i & 1 ? 1.0f : -1.0f;
  }
};
alignas(64) constexpr Signs SIGNS;

// +1 where a bit of `bits` is set, else -1; lane l takes bit l.
INLINE F signs(u32 bits) {
#if defined(__AVX512F__)
  return (F)_mm512_mask_blend_ps((__mmask16)bits, _mm512_set1_ps(-1), _mm512_set1_ps(1));
#elif defined(__AVX2__)
  const __m256i up = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24);
  __m256i top = _mm256_and_si256(_mm256_sllv_epi32(_mm256_set1_epi32((i32)bits), up), _mm256_set1_epi32(1 << 31));
  return (F)_mm256_xor_ps((__m256)top, _mm256_set1_ps(-1));
#else
  return loadf(SIGNS.of[bits & 15]);
#endif
}

// The 64 bits (n of them exist) at coordinate i, a multiple of 64.
INLINE u64 word(const u8* bits, u64 i, u64 n) {
  u64 w = 0;
  if (__builtin_expect(n >= 64, 1)) memcpy(&w, bits + i / 8, 8);
  else memcpy(&w, bits + i / 8, bytes_of(n));
  return w;
}

// Calls `vector(word offset j, bits of W coordinates)` for whole vectors and stores `n` floats.
template <class Vector>
INLINE void floats(float* to, u64 n, Vector vector) {
  if (n == 64) {
#pragma GCC unroll 16
    for (int j = 0; j < 64; j += W) storev(to + j, vector(j));
    return;
  }
  float rest[64];
  for (int j = 0; j < 64; j += W) storev(rest + j, vector(j));
  memcpy(to, rest, n * 4);
}

void decode_binary(const u8* bits, float* out, u64 begin, u64 end) {
  emit(out, begin, end, [&](u64 i, u64 n, float* to) INLINE_LAMBDA {
    for (u64 k = 0; k < n; k += 64) {
      prefetch(bits + i / 8 + k / 8 + 512);
      u64 left = least((u64)64, n - k), w = word(bits, i + k, left);
      floats(to + k, left, [&](int j) INLINE_LAMBDA { return signs((u32)(w >> j)); });
    }
  });
}

void decode_ternary(const u8* pos, const u8* neg, float* out, u64 begin, u64 end) {
  emit(out, begin, end, [&](u64 i, u64 n, float* to) INLINE_LAMBDA {
    for (u64 k = 0; k < n; k += 64) {
      u64 left = least((u64)64, n - k), p = word(pos, i + k, left), m = word(neg, i + k, left);
#if defined(__AVX512F__)
      const __m512 one = _mm512_set1_ps(1), minus = _mm512_set1_ps(-1);
      u64 up = p & ~m, down = m & ~p;
      floats(to + k, left, [&](int j) INLINE_LAMBDA {
        return (F)_mm512_mask_mov_ps(_mm512_maskz_mov_ps((__mmask16)(up >> j), one), (__mmask16)(down >> j), minus);
      });
#elif defined(__AVX2__)
      u64 some = p ^ m, down = m & ~p;
      const __m256i up = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24), top = _mm256_set1_epi32(1 << 31);
      floats(to + k, left, [&](int j) INLINE_LAMBDA {
        __m256i set = _mm256_srai_epi32(_mm256_sllv_epi32(_mm256_set1_epi32((i32)(some >> j)), up), 31);
        __m256i sign = _mm256_and_si256(_mm256_sllv_epi32(_mm256_set1_epi32((i32)(down >> j)), up), top);
        return (F)_mm256_or_si256(_mm256_and_si256(set, (__m256i)_mm256_set1_ps(1)), sign);
      });
#else
      floats(to + k, left, [&](int j) INLINE_LAMBDA {
        return (signs((u32)(p >> j)) - signs((u32)(m >> j))) * 0.5f;
      });
#endif
    }
  });
}

// Bytes of value `on` where a bit is set, else `off`.
INLINE void bytes(u64 bits, i8 on, i8 off, u8 to[64]) {
#if defined(__AVX512BW__)
  _mm512_storeu_si512(to, _mm512_mask_blend_epi8(bits, _mm512_set1_epi8(off), _mm512_set1_epi8(on)));
#elif defined(__AVX2__)
  for (int h = 0; h < 2; ++h)
    _mm256_storeu_si256((__m256i*)(to + 32 * h),
                        _mm256_blendv_epi8(_mm256_set1_epi8(off), _mm256_set1_epi8(on), mask_bytes((u32)(bits >> 32 * h))));
#else
  for (int j = 0; j < 8; ++j) {
    u64 set = SPREAD.of[bits >> 8 * j & 255] * 0xff;
    store(to + 8 * j, (set & (u8)on * 0x0101010101010101u) | (~set & (u8)off * 0x0101010101010101u));
  }
#endif
}

// Bytes of p - m.
INLINE void trit_bytes(u64 p, u64 m, u8 to[64]) {
#if defined(__AVX512BW__)
  _mm512_storeu_si512(to, _mm512_sub_epi8(_mm512_movm_epi8(m), _mm512_movm_epi8(p)));
#elif defined(__AVX2__)
  for (int h = 0; h < 2; ++h) {
    __m256i minus = mask_bytes((u32)(m >> 32 * h)), plus = mask_bytes((u32)(p >> 32 * h));
    _mm256_storeu_si256((__m256i*)(to + 32 * h), _mm256_sub_epi8(minus, plus));
  }
#else
  for (int j = 0; j < 8; ++j) {  // -1 has no bit in common with +1 and 0, so nothing is carried
    u64 plus = SPREAD.of[p >> 8 * j & 255], minus = SPREAD.of[m >> 8 * j & 255];
    store(to + 8 * j, (plus & ~minus) | (minus & ~plus) * 255);
  }
#endif
}

void decode_binary_i8(const u8* bits, i8* out, u64 begin, u64 end) {
  emit(out, begin, end, [&](u64 i, u64 n, i8* to) INLINE_LAMBDA {
    for (u64 k = 0; k < n; k += 64) {
      u64 left = least((u64)64, n - k), w = word(bits, i + k, left);
      u8 v[64];
      bytes(w, 1, -1, v);
      memcpy(to + k, v, left);
    }
  });
}

void decode_ternary_i8(const u8* pos, const u8* neg, i8* out, u64 begin, u64 end) {
  emit(out, begin, end, [&](u64 i, u64 n, i8* to) INLINE_LAMBDA {
    for (u64 k = 0; k < n; k += 64) {
      u64 left = least((u64)64, n - k), p = word(pos, i + k, left), m = word(neg, i + k, left);
      alignas(64) u8 v[64];
      trit_bytes(p, m, v);
      if (left == 64) memcpy(to + k, v, 64);
      else memcpy(to + k, v, left);
    }
  });
}

}  // namespace
