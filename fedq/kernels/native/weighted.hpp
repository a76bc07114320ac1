// Weighted votes: for each coordinate the sum of the weights of the clients that set its bit.
//
// Clients are taken in eights. Their eight bits at a coordinate, transposed into one byte, look up the eight's partial sum,
// low + high, in two tables of 16 (clients 0-3 and 4-7), and partial sums are added in the order of the clients. The tables
// come from the caller, so the order of all additions is that of the specification, on every machine.
#pragma once
#include "votes.hpp"

namespace {

constexpr u64 STRIP = 4096;  // coordinates whose sums are held while the clients pass by: 16 KiB
constexpr u64 STRIP_BYTES = STRIP / 8;

template <class T>
struct Partial {  // the tables of eight clients
  T low[16], high[16];
};

#if defined(__AVX512F__) && defined(__GFNI__)

template <class T>
INLINE __m512i look(__m512i table, __m512i at) {
  return _mm512_permutexvar_epi32(at, table);
}
// The lower halves shifted right, by multiplying: shifts would compete with the permutations for the same ports.
INLINE __m512i lower(__m512i x, int shift) {
  return shift ? _mm512_mulhi_epu16(x, _mm512_set1_epi16((short)(1 << (16 - shift)))) : x;
}
INLINE __m512i plus(__m512i a, __m512i b, float) { return (__m512i)_mm512_add_ps((__m512)a, (__m512)b); }
INLINE __m512i plus(__m512i a, __m512i b, i32) { return _mm512_add_epi32(a, b); }

// sums += the partial sums of eight rows over n coordinates (a multiple of 512). The sums of 512 coordinates stand in the
// order that the byte transposition leaves: vector 4 m + k, lane 4 L + w is coordinate 128 L + 16 m + 4 w + k.
template <class T>
INLINE void add_eight(const Row rows[8], const Partial<T>& partial, T* sums, u64 n, const Row* next) {
  const __m512i low = _mm512_loadu_si512(partial.low), high = _mm512_loadu_si512(partial.high);
  const __m512i unit = _mm512_set1_epi64((int64_t)0x8040201008040201);
  for (u64 c = 0; c < n / 8; c += 64) {
    __m512i r[8], s[8];
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) r[k] = _mm512_loadu_si512(rows[7 - k] + c);  // the last row is the matrix' first byte
    for (int k = 0; k < 8; ++k) prefetch(next[k] + c);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      s[k] = _mm512_unpacklo_epi8(r[2 * k], r[2 * k + 1]);
      s[4 + k] = _mm512_unpackhi_epi8(r[2 * k], r[2 * k + 1]);
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      r[4 * h] = _mm512_unpacklo_epi16(s[4 * h], s[4 * h + 1]);
      r[4 * h + 1] = _mm512_unpacklo_epi16(s[4 * h + 2], s[4 * h + 3]);
      r[4 * h + 2] = _mm512_unpackhi_epi16(s[4 * h], s[4 * h + 1]);
      r[4 * h + 3] = _mm512_unpackhi_epi16(s[4 * h + 2], s[4 * h + 3]);
    }
#pragma GCC unroll 4
    for (int h = 0; h < 4; ++h) {
      s[2 * h] = _mm512_unpacklo_epi32(r[2 * h], r[2 * h + 1]);
      s[2 * h + 1] = _mm512_unpackhi_epi32(r[2 * h], r[2 * h + 1]);
    }
    T* to = sums + 8 * c;
#pragma GCC unroll 8
    for (int m = 0; m < 8; ++m) {
      __m512i at = _mm512_gf2p8affine_epi64_epi8(unit, s[m], 0);
      __m512i above = _mm512_srli_epi32(at, 16);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        __m512i lo = look<T>(low, lower(k & 2 ? above : at, k & 1 ? 8 : 0)), hi = look<T>(high, lower(k & 2 ? above : at, k & 1 ? 12 : 4));
        T* sum = to + 16 * (4 * m + k);
        _mm512_store_si512(sum, plus(_mm512_load_si512(sum), plus(lo, hi, T{}), T{}));
      }
    }
  }
}

// The sums of 512 coordinates, put in order.
template <class T>
INLINE void order(const T* in, T* out) {
#pragma GCC unroll 8
  for (int m = 0; m < 8; ++m) {
    __m512i a[4], b[4], c[4];
    for (int k = 0; k < 4; ++k) a[k] = _mm512_load_si512(in + 16 * (4 * m + k));
    b[0] = _mm512_unpacklo_epi32(a[0], a[1]), b[1] = _mm512_unpackhi_epi32(a[0], a[1]);
    b[2] = _mm512_unpacklo_epi32(a[2], a[3]), b[3] = _mm512_unpackhi_epi32(a[2], a[3]);
    c[0] = _mm512_unpacklo_epi64(b[0], b[2]), c[1] = _mm512_unpackhi_epi64(b[0], b[2]);
    c[2] = _mm512_unpacklo_epi64(b[1], b[3]), c[3] = _mm512_unpackhi_epi64(b[1], b[3]);
    b[0] = _mm512_shuffle_i32x4(c[0], c[1], 0x44), b[1] = _mm512_shuffle_i32x4(c[0], c[1], 0xee);
    b[2] = _mm512_shuffle_i32x4(c[2], c[3], 0x44), b[3] = _mm512_shuffle_i32x4(c[2], c[3], 0xee);
    a[0] = _mm512_shuffle_i32x4(b[0], b[2], 0x88), a[1] = _mm512_shuffle_i32x4(b[0], b[2], 0xdd);
    a[2] = _mm512_shuffle_i32x4(b[1], b[3], 0x88), a[3] = _mm512_shuffle_i32x4(b[1], b[3], 0xdd);
    for (int L = 0; L < 4; ++L) _mm512_storeu_si512(out + 128 * L + 16 * m, a[L]);
  }
}
constexpr bool ORDERED = false;

#elif defined(__AVX2__)

INLINE __m256i look(__m256i low, __m256i high, __m256i at) {  // entry at & 15 of a table of 16; `at` is not masked
  __m256i a = _mm256_permutevar8x32_epi32(low, at), b = _mm256_permutevar8x32_epi32(high, at);
  return (__m256i)_mm256_blendv_ps((__m256)a, (__m256)b, (__m256)_mm256_slli_epi32(at, 28));
}
INLINE __m256i plus(__m256i a, __m256i b, float) { return (__m256i)_mm256_add_ps((__m256)a, (__m256)b); }
INLINE __m256i plus(__m256i a, __m256i b, i32) { return _mm256_add_epi32(a, b); }

// As above with half the lanes: 256 coordinates at a time, L is 0 or 1.
template <class T>
INLINE void add_eight(const Row rows[8], const Partial<T>& partial, T* sums, u64 n, const Row* next) {
  __m256i table[4];
  for (int h = 0; h < 2; ++h) {
    table[h] = _mm256_loadu_si256((const __m256i*)(partial.low + 8 * h));
    table[2 + h] = _mm256_loadu_si256((const __m256i*)(partial.high + 8 * h));
  }
  for (u64 c = 0; c < n / 8; c += 32) {
    __m256i r[8], s[8];
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) r[k] = _mm256_loadu_si256((const __m256i*)(rows[k] + c));
    if (c % 64 == 0)
      for (int k = 0; k < 8; ++k) prefetch(next[k] + c);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      s[k] = _mm256_unpacklo_epi8(r[2 * k], r[2 * k + 1]);
      s[4 + k] = _mm256_unpackhi_epi8(r[2 * k], r[2 * k + 1]);
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      r[4 * h] = _mm256_unpacklo_epi16(s[4 * h], s[4 * h + 1]);
      r[4 * h + 1] = _mm256_unpacklo_epi16(s[4 * h + 2], s[4 * h + 3]);
      r[4 * h + 2] = _mm256_unpackhi_epi16(s[4 * h], s[4 * h + 1]);
      r[4 * h + 3] = _mm256_unpackhi_epi16(s[4 * h + 2], s[4 * h + 3]);
    }
#pragma GCC unroll 4
    for (int h = 0; h < 4; ++h) {
      s[2 * h] = _mm256_unpacklo_epi32(r[2 * h], r[2 * h + 1]);
      s[2 * h + 1] = _mm256_unpackhi_epi32(r[2 * h], r[2 * h + 1]);
    }
    T* to = sums + 8 * c;
    for (int m = 0; m < 8; ++m) {
      __m256i at = (__m256i)transpose8((Q)s[m]);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        __m256i lo = look(table[0], table[1], k ? _mm256_srli_epi32(at, 8 * k) : at);
        __m256i hi = look(table[2], table[3], _mm256_srli_epi32(at, 8 * k + 4));
        __m256i* sum = (__m256i*)(to + 8 * (4 * m + k));
        _mm256_store_si256(sum, plus(_mm256_load_si256(sum), plus(lo, hi, T{}), T{}));
      }
    }
  }
}

template <class T>
INLINE void order(const T* in, T* out) {
  for (int half = 0; half < 2; ++half, in += 256, out += 256)
#pragma GCC unroll 8
    for (int m = 0; m < 8; ++m) {
      __m256i a[4], b[4], c[4];
      for (int k = 0; k < 4; ++k) a[k] = _mm256_load_si256((const __m256i*)(in + 8 * (4 * m + k)));
      b[0] = _mm256_unpacklo_epi32(a[0], a[1]), b[1] = _mm256_unpackhi_epi32(a[0], a[1]);
      b[2] = _mm256_unpacklo_epi32(a[2], a[3]), b[3] = _mm256_unpackhi_epi32(a[2], a[3]);
      c[0] = _mm256_unpacklo_epi64(b[0], b[2]), c[1] = _mm256_unpackhi_epi64(b[0], b[2]);
      c[2] = _mm256_unpacklo_epi64(b[1], b[3]), c[3] = _mm256_unpackhi_epi64(b[1], b[3]);
      for (int w = 0; w < 2; ++w) {
        __m256i* to = (__m256i*)(out + 16 * m + 8 * w);
        _mm256_storeu_si256(to, _mm256_permute2x128_si256(c[2 * w], c[2 * w + 1], 0x20));
        _mm256_storeu_si256(to + 16, _mm256_permute2x128_si256(c[2 * w], c[2 * w + 1], 0x31));
      }
    }
}
constexpr bool ORDERED = false;

#else

template <class T>
INLINE void add_eight(const Row rows[8], const Partial<T>& partial, T* sums, u64 n, const Row* next) {
  T both[256];
  for (int at = 0; at < 256; ++at) both[at] = partial.low[at & 15] + partial.high[at >> 4];
  for (u64 c = 0; c < n / 8; c += 8) {
    u64 r[8];
    for (int k = 0; k < 8; ++k) r[k] = load<u64>(rows[k] + c);
    if (c % 64 == 0)
      for (int k = 0; k < 8; ++k) prefetch(next[k] + c);
    for (int b = 0; b < 8; ++b) {  // byte b of each row: eight coordinates of eight clients
      u64 square = 0;
      for (int k = 0; k < 8; ++k) square |= (r[k] >> 8 * b & 255) << 8 * k;
      square = transpose8(square);
      T* sum = sums + 8 * c + 8 * (u64)b;
      for (int j = 0; j < 8; ++j) sum[j] += both[square >> 8 * j & 255];
    }
  }
}
template <class T>
INLINE void order(const T*, T*) {}
constexpr bool ORDERED = true;

#endif

// The sums of the strip from coordinate `first` over all rows, in order.
template <class T>
INLINE const T* strip_sums(const Row* rows, u64 count, const Partial<T>* tables, u64 first, u64 strip, T* sums, T* ready) {
  alignas(64) u8 rest[8][STRIP_BYTES];
  u64 whole = (strip + 511) & ~(u64)511, nbytes = bytes_of(strip);
  memset(sums, 0, whole * sizeof(T));
  for (u64 k = 0; k < count; k += 8) {
    Row eight[8], next[8];  // after the last eight, the first rows of the next strip
    bool last = k + 8 >= count;
    for (u64 j = 0; j < 8; ++j) {
      u64 following = last ? j : k + 8 + j;
      Row row = k + j < count ? rows[k + j] : 0, then = following < count ? rows[following] : 0;  // 0: a row of zeros
      eight[j] = row ? row + first / 8 : NOTHING;
      next[j] = then ? then + first / 8 + (last ? STRIP_BYTES : 0) : NOTHING;
      if (nbytes * 8 < whole && row) {  // rows end here: continue them with zeros
        memset(rest[j] + nbytes, 0, whole / 8 - nbytes);
        memcpy(rest[j], eight[j], nbytes);
        eight[j] = rest[j];
      }
    }
    add_eight(eight, tables[k / 8], sums, whole, next);
  }
  if (ORDERED) return sums;
  for (u64 j = 0; j < whole; j += 512) order(sums + j, ready + j);
  return ready;
}

template <class T>
INLINE void weighted(const Row* rows, u64 count, const Partial<T>* tables, T* out, u64 begin, u64 end) {
  alignas(64) T sums[STRIP], ready[STRIP];
  const T* from = sums;
  emit(out, begin, end, [&](u64 i, u64 n, T* to) INLINE_LAMBDA {
    u64 within = (i - begin) % STRIP;
    if (within == 0) from = strip_sums(rows, count, tables, i, least(STRIP, end - i), sums, ready);
    memcpy(to, from + within, n * sizeof(T));
  });
}

void vote_weighted(const Row* rows, u64 count, const float* tables, float* out, u64 begin, u64 end) {
  weighted(rows, count, (const Partial<float>*)tables, out, begin, end);
}

void vote_weighted_i32(const Row* rows, u64 count, const i32* tables, i32* out, u64 begin, u64 end) {
  weighted(rows, count, (const Partial<i32>*)tables, out, begin, end);
}

// sum += the partial sum of at most eight rows: a weighted vote continued.
void vote_weighted_add(const Row* rows, u64 count, const float* tables, float* sum, u64 begin, u64 end) {
  alignas(64) float sums[STRIP], ready[STRIP];
  for (u64 i = begin; i < end; i += STRIP) {
    u64 n = least(STRIP, end - i);
    const float* part = strip_sums(rows, count, (const Partial<float>*)tables, i, n, sums, ready);
    for (u64 j = 0; j < n; ++j) sum[i + j] += part[j];
  }
}

}  // namespace
