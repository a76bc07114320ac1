// Weighted votes: for each coordinate the sum of the weights of the clients that set its bit.
//
// Clients are taken in eights. Their eight bits at a coordinate, transposed into one byte, look up the eight's partial sum,
// low + high, in two tables of 16 (clients 0-3 and 4-7), and partial sums are added in the order of the clients. The tables
// come from the caller, so the order of all additions is that of the specification, on every machine. Eights pass over a
// strip of coordinates one after the other, and fetch their bytes of the next strip.
#pragma once
#include "votes.hpp"

namespace {

template <class T>
struct Partial {  // the tables of eight clients
  T low[16], high[16];
};

constexpr u64 STRIP = 6144;  // coordinates whose sums are held while the clients pass by: 24 KiB, in the first cache
constexpr u64 STRIP_BYTES = STRIP / 8;
constexpr u64 AT_ONCE = STRIP / 4;  // coordinates that are asked for at once
constexpr u64 CHUNK = 256;          // coordinates of a turn: half a line of every row

INLINE void fetch(const Row rows[8], u64 c) {  // a row's part of the next strip, while this one passes by
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) prefetch(rows[j] + c + STRIP_BYTES);
}

#if defined(__AVX512F__) && defined(__GFNI__)

INLINE __m512i look(__m512i table, __m512i at) { return _mm512_permutexvar_epi32(at, table); }
// The lower halves shifted right, by multiplying: shifts would compete with the permutations for the same ports.
INLINE __m512i lower(__m512i x, int shift) {
  return shift ? _mm512_mulhi_epu16(x, _mm512_set1_epi16((short)(1 << (16 - shift)))) : x;
}
INLINE __m512i plus(__m512i a, __m512i b, float) { return (__m512i)_mm512_add_ps((__m512)a, (__m512)b); }
INLINE __m512i plus(__m512i a, __m512i b, i32) { return _mm512_add_epi32(a, b); }

// Where four rows of 32 bytes in two vectors go before they are unpacked against the other four: vector h takes the bytes
// 16 h + 4 j + L of every row to its dword 4 L + j.
struct Rows4 {
  u8 at[2][64];
  constexpr Rows4() : at() {
    for (int h = 0; h < 2; ++h)
      for (int i = 0; i < 64; ++i) at[h][i] = (u8)(32 * (i % 4) + 16 * h + 4 * (i / 4 % 4) + i / 16);
  }
};
alignas(64) constexpr Rows4 ROWS4;

// Eight bits each of 256 coordinates, which take four vectors: byte k of dword 4 L + 2 h + w of vector m belongs to
// coordinate 64 m + 32 h + 8 L + 4 w + k. Made in two steps: what one gathers is woven while the processor adds.
template <class At>
INLINE void gather(At row, __m512i s[4]) {
  const __m512i first = load<__m512i>(ROWS4.at[0]), second = load<__m512i>(ROWS4.at[1]);
  __m512i r[4];
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k)  // the last row is the matrix' first byte
    r[k] = _mm512_inserti64x4(_mm512_castsi256_si512(row(7 - 2 * k)), row(6 - 2 * k), 1);
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    s[2 * k] = _mm512_permutex2var_epi8(r[2 * k], first, r[2 * k + 1]);
    s[2 * k + 1] = _mm512_permutex2var_epi8(r[2 * k], second, r[2 * k + 1]);
  }
}
INLINE void weave(__m512i s[4]) {
  const __m512i unit = _mm512_set1_epi64((int64_t)0x8040201008040201);
  __m512i a[4] = {_mm512_unpacklo_epi32(s[0], s[2]), _mm512_unpackhi_epi32(s[0], s[2]), _mm512_unpacklo_epi32(s[1], s[3]),
                  _mm512_unpackhi_epi32(s[1], s[3])};
#pragma GCC unroll 4
  for (int m = 0; m < 4; ++m) s[m] = _mm512_gf2p8affine_epi64_epi8(unit, a[m], 0);
}

// Sums of 64 coordinates, vector k those of bytes k, go on by eight clients' parts, from nothing where these are the first;
// after the last they go, in order, to `to`.
template <bool FEW, class T>
INLINE void add_part(__m512i bits, __m512i low, __m512i high, T* sums, bool first, T* to) {
  __m512i above = _mm512_srli_epi32(bits, 16), v[4];
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    __m512i from = k & 2 ? above : bits;
    v[k] = look(low, lower(from, k & 1 ? 8 : 0));
    if (!FEW) v[k] = plus(v[k], look(high, lower(from, k & 1 ? 12 : 4)), T{});
    v[k] = plus(first ? _mm512_setzero_si512() : _mm512_load_si512(sums + 16 * k), v[k], T{});
    if (!to) _mm512_store_si512(sums + 16 * k, v[k]);
  }
  if (!to) return;
  const __m512i front = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), back = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  __m512i b[4] = {_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[0], v[1]),
                  _mm512_unpackhi_epi32(v[2], v[3])};
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    __m512i even = _mm512_unpacklo_epi64(b[2 * h], b[2 * h + 1]), odd = _mm512_unpackhi_epi64(b[2 * h], b[2 * h + 1]);
    _mm512_storeu_si512(to + 32 * h, _mm512_permutex2var_epi64(even, front, odd));
    _mm512_storeu_si512(to + 32 * h + 16, _mm512_permutex2var_epi64(even, back, odd));
  }
}

// The sums of n coordinates, in whole 512, go on with eight rows, of which the last four are empty if FEW.
template <bool FEW, class T>
INLINE void add_eight(const Row rows[8], const Partial<T>& partial, T* sums, u64 n, bool first, T* to) {
  const __m512i low = _mm512_loadu_si512(partial.low), high = _mm512_loadu_si512(partial.high);
  __m512i s[4], next[4];
  u64 c = 0;
  auto row = [&](int j) INLINE_LAMBDA { return load<__m256i>(rows[j] + c); };
  gather(row, s);
  weave(s);
  for (u64 i = 0; i < n; i += CHUNK) {
    auto part = [&](int m) INLINE_LAMBDA { add_part<FEW>(s[m], low, high, sums + i + 64 * m, first, to ? to + i + 64 * m : 0); };
    part(0);
    c = i + CHUNK < n ? c + CHUNK / 8 : 0;  // after the last, the first once more: for nothing
    gather(row, next);
    part(1);
    weave(next);
    if (i % (2 * CHUNK) == 0) fetch(rows, c);
    part(2);
    part(3);
#pragma GCC unroll 4
    for (int m = 0; m < 4; ++m) s[m] = next[m];
  }
}

#elif defined(__AVX2__)

INLINE __m256i plus(__m256i a, __m256i b, float) { return (__m256i)_mm256_add_ps((__m256)a, (__m256)b); }
INLINE __m256i plus(__m256i a, __m256i b, i32) { return _mm256_add_epi32(a, b); }

// A table of 16 numbers by their bytes, which can be looked up at 32 places at once; both halves of a part hold it all.
struct Table16 {
  __m256i part[4];
  template <class T>
  INLINE explicit Table16(const T table[16]) {
    const __m128i bytes = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m128i r[4];  // dword b of r[k]: bytes b of numbers 4 k ... 4 k + 3
    for (int k = 0; k < 4; ++k) r[k] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i*)(table + 4 * k)), bytes);
    __m128i low01 = _mm_unpacklo_epi32(r[0], r[1]), low23 = _mm_unpacklo_epi32(r[2], r[3]);
    __m128i high01 = _mm_unpackhi_epi32(r[0], r[1]), high23 = _mm_unpackhi_epi32(r[2], r[3]);
    part[0] = _mm256_broadcastsi128_si256(_mm_unpacklo_epi64(low01, low23));
    part[1] = _mm256_broadcastsi128_si256(_mm_unpackhi_epi64(low01, low23));
    part[2] = _mm256_broadcastsi128_si256(_mm_unpacklo_epi64(high01, high23));
    part[3] = _mm256_broadcastsi128_si256(_mm_unpackhi_epi64(high01, high23));
  }
  INLINE void look(__m256i at, __m256i to[4]) const {  // to[q]: the numbers at bytes 4 q ... 4 q + 3 of both halves of `at`
    __m256i b[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) b[k] = _mm256_shuffle_epi8(part[k], at);
    __m256i low01 = _mm256_unpacklo_epi8(b[0], b[1]), low23 = _mm256_unpacklo_epi8(b[2], b[3]);
    __m256i high01 = _mm256_unpackhi_epi8(b[0], b[1]), high23 = _mm256_unpackhi_epi8(b[2], b[3]);
    to[0] = _mm256_unpacklo_epi16(low01, low23), to[1] = _mm256_unpackhi_epi16(low01, low23);
    to[2] = _mm256_unpacklo_epi16(high01, high23), to[3] = _mm256_unpackhi_epi16(high01, high23);
  }
};

// Four bits each of 256 coordinates: four rows' bytes as a dword, transposed in blocks, hold their bits at coordinate j of
// the byte in nibble 2 (j % 4) + j / 4. Dword 4 h + l of vector m is byte 16 h + 4 m + l of the rows.
INLINE void gather(const Row rows[4], u64 c, __m256i to[4]) {
  __m256i r[4], s[4];
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) r[k] = _mm256_loadu_si256((const __m256i*)(rows[k] + c));
  s[0] = _mm256_unpacklo_epi8(r[0], r[1]), s[1] = _mm256_unpacklo_epi8(r[2], r[3]);
  s[2] = _mm256_unpackhi_epi8(r[0], r[1]), s[3] = _mm256_unpackhi_epi8(r[2], r[3]);
  to[0] = _mm256_unpacklo_epi16(s[0], s[1]), to[1] = _mm256_unpackhi_epi16(s[0], s[1]);
  to[2] = _mm256_unpacklo_epi16(s[2], s[3]), to[3] = _mm256_unpackhi_epi16(s[2], s[3]);
#pragma GCC unroll 4
  for (int m = 0; m < 4; ++m) to[m] = (__m256i)transpose4((Q)to[m]);
}

// The sums of n coordinates, in whole 512, go on with eight rows, of which the last four are empty if FEW. Of 64
// coordinates those whose bits lie in low nibbles stand first, then the others; of each, vector q has coordinates
// 8 q ... 8 q + 3 and those 128 further.
template <bool FEW, class T>
INLINE void add_eight(const Row rows[8], const Partial<T>& partial, T* sums, u64 n, bool first, T* to) {
  const __m256i nibble = _mm256_set1_epi8(15);
  const Table16 low(partial.low), high(partial.high);
  for (u64 i = 0; i < n; i += CHUNK) {
    __m256i four[2][4];
    if (i % (2 * CHUNK) == 0) fetch(rows, i / 8);
    gather(rows, i / 8, four[0]);
    if (!FEW) gather(rows + 4, i / 8, four[1]);
#pragma GCC unroll 4
    for (int m = 0; m < 4; ++m) {
      __m256i v[2][4];
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        __m256i part[2][4];
        low.look((h ? _mm256_srli_epi16(four[0][m], 4) : four[0][m]) & nibble, part[0]);
        if (!FEW) high.look((h ? _mm256_srli_epi16(four[1][m], 4) : four[1][m]) & nibble, part[1]);
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q) {
          __m256i* own = (__m256i*)(sums + i + 64 * m + 32 * h + 8 * q);
          if (!FEW) part[0][q] = plus(part[0][q], part[1][q], T{});
          v[h][q] = plus(first ? _mm256_setzero_si256() : _mm256_load_si256(own), part[0][q], T{});
          if (!to) _mm256_store_si256(own, v[h][q]);
        }
      }
      if (to)
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q) {
          T* out = to + i + 32 * m + 8 * q;
          _mm256_storeu_si256((__m256i*)out, _mm256_permute2x128_si256(v[0][q], v[1][q], 0x20));
          _mm256_storeu_si256((__m256i*)(out + 128), _mm256_permute2x128_si256(v[0][q], v[1][q], 0x31));
        }
    }
  }
}

#else

template <bool FEW, class T>
INLINE void add_eight(const Row rows[8], const Partial<T>& partial, T* sums, u64 n, bool first, T* to) {
  T both[256];
  for (int at = 0; at < 256; ++at) both[at] = partial.low[at & 15] + partial.high[at >> 4];
  if (first) memset(sums, 0, n * sizeof(T));
  for (u64 c = 0; c < n / 8; c += 8) {
    u64 r[8];
    if (c % 64 == 0) fetch(rows, c);
    for (int k = 0; k < 8; ++k) r[k] = load<u64>(rows[k] + c);
    for (int b = 0; b < 8; ++b) {  // byte b of each row: eight coordinates of eight clients
      u64 square = 0;
      for (int k = 0; k < 8; ++k) square |= (r[k] >> 8 * b & 255) << 8 * k;
      square = transpose8(square);
      T* sum = sums + 8 * c + 8 * (u64)b;
      for (int j = 0; j < 8; ++j) sum[j] += both[square >> 8 * j & 255];
    }
  }
  if (to) memcpy(to, sums, n * sizeof(T));
}

#endif

// The votes on [begin, end), asked for in runs.
template <class T>
struct Tally {
  const Row* rows;
  u64 count;
  const Partial<T>* tables;
  u64 begin, end;
  alignas(64) T sums[STRIP];
  alignas(64) u8 rest[8][STRIP_BYTES];

  INLINE Tally(const Row* rows, u64 count, const Partial<T>* tables, u64 begin, u64 end)
      : rows(rows), count(count), tables(tables), begin(begin), end(end) {}

  // Rows k ... k + 7, or zeros where there are none, over n coordinates from i on, in whole 512.
  INLINE void pass(u64 k, u64 i, u64 n, T* own, T* to) {
    Row eight[8];
    u64 whole = (n + 511) & ~(u64)511, nbytes = bytes_of(n);
    for (u64 j = 0; j < 8; ++j) {
      Row row = k + j < count ? rows[k + j] : 0;  // 0: a row of zeros
      eight[j] = row ? row + i / 8 : NOTHING;
      if (nbytes * 8 < whole && row) {  // rows end here: continue them with zeros
        memset(rest[j] + nbytes, 0, whole / 8 - nbytes);
        memcpy(rest[j], eight[j], nbytes);
        eight[j] = rest[j];
      }
    }
    if (count - k <= 4) add_eight<true>(eight, tables[k / 8], own, whole, k == 0, to);
    else add_eight<false>(eight, tables[k / 8], own, whole, k == 0, to);
  }

  // In order, from a multiple of 512 after `begin`.
  INLINE void run(u64 i, u64 n, T* to) {
    u64 within = (i - begin) % STRIP, last = count ? (count - 1) / 8 * 8 : 0;
    for (u64 k = 0; within == 0 && k < last; k += 8) pass(k, i, least(STRIP, end - i), sums, 0);
    alignas(64) T room[512];
    u64 whole = n & ~(u64)511;
    if (!count) memset(to, 0, n * sizeof(T));
    if (count && whole) pass(last, i, whole, sums + within, to);
    if (count && n > whole) {
      pass(last, i + whole, n - whole, sums + within + whole, room);
      memcpy(to + whole, room, (n - whole) * sizeof(T));
    }
  }
};

template <class T>
INLINE void weighted(const Row* rows, u64 count, const Partial<T>* tables, T* out, u64 begin, u64 end) {
  Tally<T> sums{rows, count, tables, begin, end};
  emit<AT_ONCE>(out, begin, end, [&](u64 i, u64 n, T* to) INLINE_LAMBDA { sums.run(i, n, to); });
}

void vote_weighted(const Row* rows, u64 count, const float* tables, float* out, u64 begin, u64 end) {
  weighted(rows, count, (const Partial<float>*)tables, out, begin, end);
}

void vote_weighted_i32(const Row* rows, u64 count, const i32* tables, i32* out, u64 begin, u64 end) {
  weighted(rows, count, (const Partial<i32>*)tables, out, begin, end);
}

// sum += the partial sum of at most eight rows: a weighted vote continued.
void vote_weighted_add(const Row* rows, u64 count, const float* tables, float* sum, u64 begin, u64 end) {
  Tally<float> sums{rows, count, (const Partial<float>*)tables, begin, end};
  float part[AT_ONCE];
  for (u64 i = begin; i < end; i += AT_ONCE) {
    u64 n = least(AT_ONCE, end - i);
    sums.run(i, n, part);
    for (u64 j = 0; j < n; ++j) sum[i + j] += part[j];
  }
}

}  // namespace
