// Weighted votes: for each coordinate the sum of the weights of the clients that set its bit.
//
// Clients are taken in eights. Their eight bits at a coordinate, transposed into one byte, look up the eight's partial sum,
// low + high, in two tables of 16 (clients 0-3 and 4-7), and partial sums are added in the order of the clients. The tables
// come from the caller, so the order of all additions is that of the specification, on every machine. Eights pass over a
// strip of coordinates one after the other: rows are read in runs, eight at a time, which the processor fetches ahead.
#pragma once
#include "votes.hpp"

namespace {

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

constexpr u64 STRIP = 1 << 15;  // coordinates whose sums are held while the clients pass by: 128 KiB, in the second cache

// The sums of CHUNK coordinates: sum 4 m + k, lane 4 L + 2 h + w is coordinate 64 m + 32 h + 8 L + 4 w + k.
constexpr u64 CHUNK = 256, CHUNK_BYTES = CHUNK / 8;
template <class T>
struct Chunk {
  __m512i sum[16];

  // Eight rows -> s[m]: byte k of dword 4 L + 2 h + w is the eight bits of the coordinate above. In two steps, which the
  // caller keeps apart: what one gathers is woven while the processor adds. (`asm` holds the compiler to that order.)
  template <class At>
  INLINE static void gather(At row, __m512i s[4]) {
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
    asm volatile("" : "+v"(s[0]), "+v"(s[1]), "+v"(s[2]), "+v"(s[3]));
  }
  INLINE static void weave(__m512i s[4]) {
    const __m512i unit = _mm512_set1_epi64((int64_t)0x8040201008040201);
    __m512i a[4] = {_mm512_unpacklo_epi32(s[0], s[2]), _mm512_unpackhi_epi32(s[0], s[2]), _mm512_unpacklo_epi32(s[1], s[3]),
                    _mm512_unpackhi_epi32(s[1], s[3])};
#pragma GCC unroll 4
    for (int m = 0; m < 4; ++m) s[m] = _mm512_gf2p8affine_epi64_epi8(unit, a[m], 0);
    asm volatile("" : "+v"(s[0]), "+v"(s[1]), "+v"(s[2]), "+v"(s[3]));
  }
  INLINE void add(__m512i bits, __m512i low, __m512i high, int m) {
    __m512i above = _mm512_srli_epi32(bits, 16);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      __m512i from = k & 2 ? above : bits;
      __m512i lo = look<T>(low, lower(from, k & 1 ? 8 : 0)), hi = look<T>(high, lower(from, k & 1 ? 12 : 4));
      sum[4 * m + k] = plus(sum[4 * m + k], plus(lo, hi, T{}), T{});
      asm volatile("" : "+v"(sum[4 * m + k]));
    }
  }
  INLINE void begin() {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) sum[i] = _mm512_setzero_si512();
  }
  INLINE void read(const T* in) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) sum[i] = _mm512_load_si512(in + 16 * i);
  }
  INLINE void write(T* out) const {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_store_si512(out + 16 * i, sum[i]);
  }
  INLINE void order(T* out) const {
    const __m512i front = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), back = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
#pragma GCC unroll 4
    for (int m = 0; m < 4; ++m) {
      const __m512i* v = sum + 4 * m;
      __m512i b[4] = {_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpacklo_epi32(v[2], v[3]),
                      _mm512_unpackhi_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[2], v[3])};
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        __m512i even = _mm512_unpacklo_epi64(b[2 * h], b[2 * h + 1]), odd = _mm512_unpackhi_epi64(b[2 * h], b[2 * h + 1]);
        _mm512_storeu_si512(out + 64 * m + 32 * h, _mm512_permutex2var_epi64(even, front, odd));
        _mm512_storeu_si512(out + 64 * m + 32 * h + 16, _mm512_permutex2var_epi64(even, back, odd));
      }
    }
  }
};

// The sums of n coordinates go on with eight rows, from nothing where these are the first; after the last they go, in
// order, to `to`.
template <class T>
INLINE void add_eight(const Row rows[8], const Partial<T>& partial, T* sums, u64 n, const Row*, bool first, T* to) {
  constexpr u64 AWAY = 1024;
  const __m512i low = _mm512_loadu_si512(partial.low), high = _mm512_loadu_si512(partial.high);
  __m512i s[4], next[4];
  u64 c = 0;
  auto row = [&](int j) INLINE_LAMBDA { return load<__m256i>(rows[j] + c); };
  Chunk<T>::gather(row, s);
  Chunk<T>::weave(s);
  for (u64 i = 0; i < n; i += CHUNK) {
    if (i % (2 * CHUNK) == 0)  // a line lasts two turns
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) __builtin_prefetch(rows[j] + c + AWAY, 0, 2);
    Chunk<T> chunk;
    first ? chunk.begin() : chunk.read(sums + i);
    chunk.add(s[0], low, high, 0);
    c = i + CHUNK < n ? c + CHUNK_BYTES : 0;  // after the last, the first once more: for nothing
    Chunk<T>::gather(row, next);
    chunk.add(s[1], low, high, 1);
    Chunk<T>::weave(next);
    chunk.add(s[2], low, high, 2);
    chunk.add(s[3], low, high, 3);
    to ? chunk.order(to + i) : chunk.write(sums + i);
#pragma GCC unroll 4
    for (int m = 0; m < 4; ++m) s[m] = next[m];
  }
}

#elif defined(__AVX2__)

constexpr u64 STRIP = 4096;  // 16 KiB of sums, in the first cache

// The entry of a table of 16 at the lowest four bits of `at`; the highest of them is also that of `top`.
INLINE __m256i look(__m256i low, __m256i high, __m256i at, __m256i top) {
  __m256i a = _mm256_permutevar8x32_epi32(low, at), b = _mm256_permutevar8x32_epi32(high, at);
  return (__m256i)_mm256_blendv_ps((__m256)a, (__m256)b, (__m256)top);
}
// Shifts of the halves of dwords, by multiplying: shifts would compete with the permutations for the same ports.
INLINE __m256i lower(__m256i x, int shift) {
  return shift ? _mm256_mulhi_epu16(x, _mm256_set1_epi16((short)(1 << (16 - shift)))) : x;
}
INLINE __m256i higher(__m256i x, int shift) { return shift ? _mm256_mullo_epi16(x, _mm256_set1_epi16((short)(1 << shift))) : x; }
INLINE __m256i plus(__m256i a, __m256i b, float) { return (__m256i)_mm256_add_ps((__m256)a, (__m256)b); }
INLINE __m256i plus(__m256i a, __m256i b, i32) { return _mm256_add_epi32(a, b); }

// 256 coordinates at a time, four clients at a time: their four bytes as a dword, transposed in blocks, hold their bits at
// coordinate j of the byte in nibble 2 (j % 4) + j / 4. Sum 8 m + n, lane 4 h + l belongs to nibble n of byte 16 h + 4 m + l.
template <class T>
INLINE void add_to(const Row rows[8], const Partial<T>& partial, T* sums, u64 n, const Row* next) {
  __m256i table[4];
  for (int h = 0; h < 2; ++h) {
    table[h] = _mm256_loadu_si256((const __m256i*)(partial.low + 8 * h));
    table[2 + h] = _mm256_loadu_si256((const __m256i*)(partial.high + 8 * h));
  }
  for (u64 c = 0; c < n / 8; c += 32) {
    __m256i four[2][4];
    if (c % 64 == 0)
      for (int k = 0; k < 8; ++k) prefetch(next[k] + c);
#pragma GCC unroll 2
    for (int side = 0; side < 2; ++side) {
      __m256i r[4], s[4];
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) r[k] = _mm256_loadu_si256((const __m256i*)(rows[4 * side + k] + c));
      s[0] = _mm256_unpacklo_epi8(r[0], r[1]), s[1] = _mm256_unpacklo_epi8(r[2], r[3]);
      s[2] = _mm256_unpackhi_epi8(r[0], r[1]), s[3] = _mm256_unpackhi_epi8(r[2], r[3]);
      four[side][0] = _mm256_unpacklo_epi16(s[0], s[1]), four[side][1] = _mm256_unpackhi_epi16(s[0], s[1]);
      four[side][2] = _mm256_unpacklo_epi16(s[2], s[3]), four[side][3] = _mm256_unpackhi_epi16(s[2], s[3]);
    }
    for (int m = 0; m < 4; ++m) {
      __m256i at[2], above[2], below[2];
      for (int side = 0; side < 2; ++side) {
        at[side] = (__m256i)transpose4((Q)four[side][m]);
        above[side] = _mm256_srli_epi32(at[side], 16), below[side] = _mm256_slli_epi32(at[side], 16);
      }
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k) {
        __m256i part[2];
        for (int side = 0; side < 2; ++side) {
          __m256i down = k & 4 ? above[side] : at[side], up = k & 4 ? at[side] : below[side];
          part[side] = look(table[2 * side], table[2 * side + 1], lower(down, k % 4 * 4), higher(up, 12 - k % 4 * 4));
        }
        __m256i* sum = (__m256i*)(sums + 8 * (c + 8 * (u64)m + (u64)k));
        _mm256_store_si256(sum, plus(_mm256_load_si256(sum), plus(part[0], part[1], T{}), T{}));
      }
    }
  }
}

template <class T>
INLINE void order(const T* in, T* out) {
  for (int m = 0; m < 8; ++m, in += 64) {
    __m256i a[8], b[8];
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) a[j] = _mm256_load_si256((const __m256i*)(in + 8 * (2 * (j % 4) + j / 4)));
#pragma GCC unroll 4
    for (int j = 0; j < 8; j += 2) b[j] = _mm256_unpacklo_epi32(a[j], a[j + 1]), b[j + 1] = _mm256_unpackhi_epi32(a[j], a[j + 1]);
#pragma GCC unroll 2
    for (int j = 0; j < 8; j += 4)
      for (int l = 0; l < 2; ++l) {
        a[j + 2 * l] = _mm256_unpacklo_epi64(b[j + l], b[j + 2 + l]);
        a[j + 2 * l + 1] = _mm256_unpackhi_epi64(b[j + l], b[j + 2 + l]);
      }
#pragma GCC unroll 4
    for (int l = 0; l < 4; ++l) {
      T* to = out + 256 * (m / 4) + 8 * (4 * (m % 4) + l);
      _mm256_storeu_si256((__m256i*)to, _mm256_permute2x128_si256(a[l], a[4 + l], 0x20));
      _mm256_storeu_si256((__m256i*)(to + 128), _mm256_permute2x128_si256(a[l], a[4 + l], 0x31));
    }
  }
}
#else

constexpr u64 STRIP = 4096;

template <class T>
INLINE void add_to(const Row rows[8], const Partial<T>& partial, T* sums, u64 n, const Row* next) {
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
INLINE void order(const T* in, T* out) {
  memcpy(out, in, 512 * sizeof(T));
}

#endif

#if !defined(__AVX512F__) || !defined(__GFNI__)
template <class T>
INLINE void add_eight(const Row rows[8], const Partial<T>& partial, T* sums, u64 n, const Row* next, bool first, T* to) {
  if (first) memset(sums, 0, n * sizeof(T));
  add_to(rows, partial, sums, n, next);
  for (u64 i = 0; to && i < n; i += 512) order(sums + i, to + i);
}
#endif

constexpr u64 STRIP_BYTES = STRIP / 8;

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
    Row eight[8], next[8];  // after the last eight, the first rows of the next strip
    u64 whole = (n + 511) & ~(u64)511, nbytes = bytes_of(n);
    bool last = k + 8 >= count;
    for (u64 j = 0; j < 8; ++j) {
      u64 following = last ? j : k + 8 + j;
      Row row = k + j < count ? rows[k + j] : 0, then = following < count ? rows[following] : 0;  // 0: a row of zeros
      eight[j] = row ? row + i / 8 : NOTHING;
      next[j] = then ? then + i / 8 + (last ? STRIP_BYTES : 0) : NOTHING;
      if (nbytes * 8 < whole && row) {  // rows end here: continue them with zeros
        memset(rest[j] + nbytes, 0, whole / 8 - nbytes);
        memcpy(rest[j], eight[j], nbytes);
        eight[j] = rest[j];
      }
    }
    add_eight(eight, tables[k / 8], own, whole, next, k == 0, to);
  }

  // In order; n is RUN, but where the last end.
  INLINE void run(u64 i, u64 n, T* to) {
    u64 within = (i - begin) % STRIP, last = count ? (count - 1) / 8 * 8 : 0;
    for (u64 k = 0; within == 0 && k < last; k += 8) pass(k, i, least(STRIP, end - i), sums, 0);
    alignas(64) T room[RUN];
    if (!count) memset(to, 0, n * sizeof(T));
    if (count) pass(last, i, n, sums + within, n < RUN ? room : to);
    if (count && n < RUN) memcpy(to, room, n * sizeof(T));
  }
};

template <class T>
INLINE void weighted(const Row* rows, u64 count, const Partial<T>* tables, T* out, u64 begin, u64 end) {
  Tally<T> sums{rows, count, tables, begin, end};
  emit(out, begin, end, [&](u64 i, u64 n, T* to) INLINE_LAMBDA { sums.run(i, n, to); });
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
  float part[RUN];
  for (u64 i = begin; i < end; i += RUN) {
    u64 n = least(RUN, end - i);
    sums.run(i, n, part);
    for (u64 j = 0; j < n; ++j) sum[i + j] += part[j];
  }
}

}  // namespace
