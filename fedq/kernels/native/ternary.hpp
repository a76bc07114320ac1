// Wire formats of ternary planes: base 3 (1.6 bits a trit), and the nonzero plane with the signs of the nonzeros.
#pragma once
#include "decode.hpp"

namespace {

constexpr u64 BLOCK = 320;  // trits in 64 planar bytes
constexpr u8 POWERS[5] = {1, 3, 9, 27, 81};

INLINE int trit(const u8* pos, const u8* neg, u64 i) {
  return (pos[i >> 3] >> (i & 7) & 1) - (neg[i >> 3] >> (i & 7) & 1);
}

#if defined(__AVX512VBMI__)
// Four trits as a byte, the bits of +1 below those of -1: what the trits and a fifth zero sum up to, and which four trits
// the sums of five begin with. Bytes that no trits make are never looked up, or refused.
struct Sums {
  u8 of[256];
  constexpr Sums() : of() {
    for (int code = 0; code < 256; ++code) {
      int sum = 121;
      for (int k = 0; k < 4; ++k) sum += ((code >> k & 1) - (code >> (4 + k) & 1)) * POWERS[k];
      of[code] = (u8)sum;
    }
  }
};
struct Digits {
  u8 of[256];
  constexpr Digits() : of() {
    for (int sum = 0; sum < 256; ++sum)
      for (int k = 0, x = sum; k < 4; ++k, x /= 3) of[sum] = (u8)(of[sum] | (x % 3 == 2) << k | (x % 3 == 0) << (4 + k));
  }
};
alignas(64) constexpr Sums SUMS;
alignas(64) constexpr Digits DIGITS;

// Where the bytes of an 8 x 8 matrix of bytes go when it is transposed.
struct Across {
  u8 at[64];
  constexpr Across() : at() {
    for (int i = 0; i < 64; ++i) at[i] = (u8)(i % 8 * 8 + i / 8);
  }
};
alignas(64) constexpr Across ACROSS;

// Four words of each plane, 64 coordinates a word, to 64 bytes: byte j gets bit j of each word, those of `pos` first. The
// affine instruction transposes 8 x 8 bits; its matrix has the last row in the first byte.
INLINE __m512i planes_to_bytes(const u8* pos, const u8* neg) {
  __m512i words = _mm512_inserti64x4(_mm512_castsi256_si512(load<__m256i>(pos)), load<__m256i>(neg), 1);
  const __m512i last_first = _mm512_xor_si512(load<__m512i>(ACROSS.at), _mm512_set1_epi8(56));
  words = _mm512_permutexvar_epi8(last_first, words);
  return _mm512_gf2p8affine_epi64_epi8(_mm512_set1_epi64((int64_t)0x8040201008040201), words, 0);
}
INLINE void bytes_to_planes(__m512i bytes, u8* pos, u8* neg) {
  const __m512i last_first = _mm512_set4_epi64(0x08090a0b0c0d0e0f, 0x0001020304050607, 0x08090a0b0c0d0e0f, 0x0001020304050607);
  bytes = _mm512_shuffle_epi8(bytes, last_first);
  bytes = _mm512_gf2p8affine_epi64_epi8(_mm512_set1_epi64((int64_t)0x8040201008040201), bytes, 0);
  __m512i words = _mm512_permutexvar_epi8(load<__m512i>(ACROSS.at), bytes);
  store(pos, _mm512_castsi512_si256(words));
  store(neg, _mm512_extracti64x4_epi64(words, 1));
}
#endif

#if defined(__AVX2__) && !defined(__AVX512VBMI__)
// The same in two vectors.
INLINE void planes_to_bytes(const u8* pos, const u8* neg, __m256i bytes[2]) {
  const __m256i pairs = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
  __m256i p = _mm256_shuffle_epi8(load<__m256i>(pos), pairs), m = _mm256_shuffle_epi8(load<__m256i>(neg), pairs);
  __m256i front = _mm256_permute2x128_si256(p, m, 0x20), back = _mm256_permute2x128_si256(p, m, 0x31);
  const __m256i both = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  bytes[0] = _mm256_permutevar8x32_epi32(_mm256_unpacklo_epi16(front, back), both);
  bytes[1] = _mm256_permutevar8x32_epi32(_mm256_unpackhi_epi16(front, back), both);
  for (int h = 0; h < 2; ++h) bytes[h] = (__m256i)transpose8((Q)bytes[h]);
}
INLINE __m256i sum_of_four(__m256i bits) {  // of each byte, with a fifth zero
  const __m256i sums = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 3, 4, 9, 10, 12, 13, 27, 28, 30, 31, 36, 37, 39, 40));
  const __m256i low = _mm256_set1_epi8(15);
  __m256i plus = _mm256_shuffle_epi8(sums, _mm256_and_si256(bits, low));
  __m256i minus = _mm256_shuffle_epi8(sums, _mm256_and_si256(_mm256_srli_epi16(bits, 4), low));
  return _mm256_add_epi8(_mm256_sub_epi8(plus, minus), _mm256_set1_epi8(121));
}
#endif

// Blocks [begin, end) of 320 coordinates, and the tail if `end` is beyond the last full one.
void pack_base3(const u8* pos, const u8* neg, u64 d, u8* out, u64 begin, u64 end) {
  u64 full = d / BLOCK, b = begin;
#if defined(__AVX512VBMI__)
  const Look256 four(SUMS.of);
#endif
  for (; b < end && b < full; ++b) {
#if defined(__AVX512VBMI__)
    __m512i sum = four(planes_to_bytes(pos + 40 * b, neg + 40 * b));
    sum = _mm512_mask_add_epi8(sum, load<u64>(pos + 40 * b + 32), sum, _mm512_set1_epi8(81));
    sum = _mm512_mask_sub_epi8(sum, load<u64>(neg + 40 * b + 32), sum, _mm512_set1_epi8(81));
    _mm512_storeu_si512(out + 64 * b, sum);
#elif defined(__AVX2__)
    __m256i four[2];
    planes_to_bytes(pos + 40 * b, neg + 40 * b, four);
    for (int h = 0; h < 2; ++h) {
      __m256i plus = mask_bytes(load<u32>(pos + 40 * b + 32 + 4 * h)), minus = mask_bytes(load<u32>(neg + 40 * b + 32 + 4 * h));
      const __m256i last = _mm256_set1_epi8(81);
      __m256i sum = _mm256_add_epi8(sum_of_four(four[h]), _mm256_and_si256(plus, last));
      _mm256_storeu_si256((__m256i*)(out + 64 * b + 32 * h), _mm256_sub_epi8(sum, _mm256_and_si256(minus, last)));
    }
#else
    u64 sum[8];
    for (int j = 0; j < 8; ++j) sum[j] = 121 * 0x0101010101010101;
    for (int k = 0; k < 5; ++k) {
      u64 p = word(pos, b * BLOCK + 64 * k, 64), m = word(neg, b * BLOCK + 64 * k, 64);
      for (int j = 0; j < 8; ++j) {  // no byte ever leaves [0, 242], so none borrows from its neighbour
        sum[j] += SPREAD.of[p >> 8 * j & 255] * POWERS[k];
        sum[j] -= SPREAD.of[m >> 8 * j & 255] * POWERS[k];
      }
    }
    memcpy(out + 64 * b, sum, 64);
#endif
  }
  if (b == end) return;
  for (u64 i = full * BLOCK; i < d; i += 5) {
    int sum = 0;
    for (u64 k = 0; k < 5 && i + k < d; ++k) sum += (trit(pos, neg, i + k) + 1) * POWERS[k];
    out[64 * full + (i - full * BLOCK) / 5] = (u8)sum;
  }
}

// The same from trits of a byte each.
void pack_base3_i8(const i8* trits, u64 d, u8* out, u64 begin, u64 end) {
  typedef u8 Bytes __attribute__((vector_size(V)));
  u64 full = d / BLOCK, b = begin;
  for (; b < end && b < full; ++b) {
    const i8* in = trits + BLOCK * b;
    for (int line = 0; line < 5; ++line) prefetch(in + AHEAD + 64 * line);
#pragma GCC unroll 4
    for (int j = 0; j < 64; j += V) {
      Bytes sum = load<Bytes>(in + 256 + j);
#pragma GCC unroll 4
      for (int k = 3; k >= 0; --k) sum = sum + sum + sum + load<Bytes>(in + 64 * k + j);
      store(out + 64 * b + j, sum + (u8)121);
    }
  }
  if (b == end) return;
  for (u64 i = full * BLOCK; i < d; i += 5) {
    int sum = 0;
    for (u64 k = 0; k < 5 && i + k < d; ++k) sum += (trits[i + k] + 1) * POWERS[k];
    out[64 * full + (i - full * BLOCK) / 5] = (u8)sum;
  }
}

// The reverse; returns whether the bytes were canonical: all below 243, padding digits zero.
int unpack_base3(const u8* in, u64 d, u8* pos, u8* neg, u64 begin, u64 end) {
  u64 full = d / BLOCK, b = begin;
#if defined(__AVX512VBMI__)
  const Look256 four(DIGITS.of);
  __m512i most = _mm512_setzero_si512();
#elif defined(__AVX2__)
  __m256i wrong = _mm256_setzero_si256();
#else
  u8 wrong = 0;
#endif
  for (; b < end && b < full; ++b)
#if defined(__AVX512VBMI__)
  {
    __m512i x = _mm512_loadu_si512(in + 64 * b);
    bytes_to_planes(four(x), pos + 40 * b, neg + 40 * b);
    store(pos + 40 * b + 32, (u64)_mm512_cmpge_epu8_mask(x, _mm512_set1_epi8((char)162)));
    store(neg + 40 * b + 32, (u64)_mm512_cmplt_epu8_mask(x, _mm512_set1_epi8(81)));
    most = _mm512_max_epu8(most, x);
  }
  int canonical = _mm512_cmpge_epu8_mask(most, _mm512_set1_epi8((char)243)) == 0;
#elif defined(__AVX2__)
    for (int h = 0; h < 2; ++h) {
      __m256i x = _mm256_loadu_si256((const __m256i*)(in + 64 * b + 32 * h));
      for (int k = 5; k--;) {
        const __m256i one = _mm256_set1_epi8((char)POWERS[k]), two = _mm256_set1_epi8((char)(2 * POWERS[k]));
        __m256i some = _mm256_cmpeq_epi8(_mm256_max_epu8(x, one), x), plus = _mm256_cmpeq_epi8(_mm256_max_epu8(x, two), x);
        x = _mm256_sub_epi8(_mm256_sub_epi8(x, _mm256_and_si256(some, one)), _mm256_and_si256(plus, one));
        store(pos + b * 40 + 8 * k + 4 * h, (u32)_mm256_movemask_epi8(plus));
        store(neg + b * 40 + 8 * k + 4 * h, ~(u32)_mm256_movemask_epi8(some));
      }
      wrong = _mm256_or_si256(wrong, x);
    }
  int canonical = _mm256_testz_si256(wrong, wrong);
#else
  {
    u8 x[64];
    memcpy(x, in + 64 * b, 64);
    for (int k = 4; k >= 0; --k) {
      u8 plus[64], minus[64];
      for (int j = 0; j < 64; ++j) {
        u8 two = x[j] >= 2 * POWERS[k], some = x[j] >= POWERS[k];
        x[j] = (u8)(x[j] - (-some & POWERS[k]) - (-two & POWERS[k]));
        plus[j] = two, minus[j] = 1 - some;
      }
      for (int j = 0; j < 8; ++j) {  // the lowest bits of 8 bytes, gathered in the top byte
        pos[b * 40 + 8 * k + j] = (u8)(load<u64>(plus + 8 * j) * 0x0102040810204080 >> 56);
        neg[b * 40 + 8 * k + j] = (u8)(load<u64>(minus + 8 * j) * 0x0102040810204080 >> 56);
      }
    }
    for (int j = 0; j < 64; ++j) wrong |= x[j];
  }
  int canonical = wrong == 0;
#endif
  if (b == end) return canonical;
  u64 first = full * BLOCK;
  memset(pos + first / 8, 0, bytes_of(d) - first / 8);
  memset(neg + first / 8, 0, bytes_of(d) - first / 8);
  for (u64 i = first; i < d; i += 5) {
    int x = in[64 * full + (i - first) / 5];
    canonical &= x < 243;
    for (u64 k = 0; k < 5; ++k, x /= 3) {
      int digit = x % 3;
      u64 c = i + k;
      if (c >= d) canonical &= digit == 0;
      else {
        pos[c >> 3] |= (u8)((digit == 2) << (c & 7));
        neg[c >> 3] |= (u8)((digit == 0) << (c & 7));
      }
    }
  }
  return canonical;
}

INLINE u64 extract(u64 x, u64 mask) {  // the bits of x where mask is set, together at the low end
#if defined(__BMI2__)
  return _pext_u64(x, mask);
#else
  u64 out = 0;
  for (int n = 0; mask; mask &= mask - 1, ++n) out |= (u64)((x & mask & -mask) != 0) << n;
  return out;
#endif
}
INLINE u64 deposit(u64 x, u64 mask) {
#if defined(__BMI2__)
  return _pdep_u64(x, mask);
#else
  u64 out = 0;
  for (; mask; mask &= mask - 1, x >>= 1) out |= mask & -mask & -(x & 1);
  return out;
#endif
}

u64 count_ones(const u8* bits, u64 nbytes) {
  u64 ones = 0, i = 0;
  for (; i + 8 <= nbytes; i += 8) ones += (u64)__builtin_popcountll(load<u64>(bits + i));
  for (; i < nbytes; ++i) ones += (u64)__builtin_popcount(bits[i]);
  return ones;
}

// The signs of the nonzeros, one bit each (set is +1); `mask` receives the nonzero plane. Returns the bytes of `signs`.
u64 pack_mask_sign(const u8* pos, const u8* neg, u64 d, u8* mask, u8* signs_out) {
  u64 held = 0, written = 0;  // bits not yet written, and how many
  int n = 0;
  for (u64 i = 0; i < d; i += 64) {
    u64 left = least((u64)64, d - i), p = word(pos, i, left), nonzero = p | word(neg, i, left);
    memcpy(mask + i / 8, &nonzero, bytes_of(left));
    u64 bits = extract(p, nonzero);
    int more = __builtin_popcountll(nonzero);
    held |= bits << n;
    if (n + more >= 64) {
      memcpy(signs_out + written, &held, 8);
      written += 8;
      held = n ? bits >> (64 - n) : 0;
      n += more - 64;
    } else {
      n += more;
    }
  }
  memcpy(signs_out + written, &held, bytes_of((u64)n));
  return written + bytes_of((u64)n);
}

// The planes of a mask and the signs of its ones; `signs` holds exactly ceil(ones / 8) bytes.
void unpack_mask_sign(const u8* mask, const u8* signs_in, u64 nsigns, u64 d, u8* pos, u8* neg) {
  u64 at = 0;  // bit of `signs_in`
  for (u64 i = 0; i < d; i += 64) {
    u64 left = least((u64)64, d - i), nonzero = word(mask, i, left), byte = at >> 3, shift = at & 7, bits = 0;
    if (byte + 9 <= nsigns) {
      bits = load<u64>(signs_in + byte) >> shift;
      if (shift) bits |= (u64)signs_in[byte + 8] << (64 - shift);
    } else if (byte < nsigns) {
      u8 rest[16] = {};
      memcpy(rest, signs_in + byte, nsigns - byte);
      bits = load<u64>(rest) >> shift;
      if (shift) bits |= (u64)rest[8] << (64 - shift);
    }
    u64 plus = deposit(bits, nonzero), minus = nonzero & ~plus;
    memcpy(pos + i / 8, &plus, bytes_of(left));
    memcpy(neg + i / 8, &minus, bytes_of(left));
    at += (u64)__builtin_popcountll(nonzero);
  }
}

// Whether no weight is both +1 and -1.
int disjoint(const u8* pos, const u8* neg, u64 nbytes) {
  Q both = {};
  u64 i = 0;
  for (; i + V <= nbytes; i += V) both |= loadq(pos + i) & loadq(neg + i);
  u64 any = 0;
  for (int l = 0; l < W / 2; ++l) any |= both[l];
  for (; i < nbytes; ++i) any |= pos[i] & neg[i];
  return any == 0;
}

}  // namespace
