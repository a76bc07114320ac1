// Votes of N clients straight from their bits. Counters are bit-sliced: plane b holds bit b of every coordinate's count,
// and a carry-save adder takes up to sixteen rows at once, so a coordinate costs a few logic operations on whole vectors.
#pragma once
#include "decode.hpp"

namespace {

constexpr u64 SLAB = 4096;      // bytes of a row that are counted together: the planes stay in the first-level cache
constexpr int MOST_PLANES = 32;  // counts below 2^32
constexpr u64 ABREAST = V == 64 ? 10 : 16;  // rows that are read side by side: memory gives more of them more slowly
typedef const u8* Row;

alignas(64) constexpr u8 NOTHING[SLAB] = {};

INLINE Q add3(Q& sum, Q a, Q b) {  // sum + a + b: returns the carry
  Q carry = majority3(sum, a, b);
  sum = xor3(sum, a, b);
  return carry;
}

// planes += rows, for up to 16 rows of `n` bytes; `planes[b]` are padded to whole vectors, rows are not.
INLINE void add_rows(const Row* rows, int count, u8* const* planes, int nplanes, u64 n, bool ahead) {
  Row r[16];
  for (int k = 0; k < 16; ++k) r[k] = k < count ? rows[k] : NOTHING;
  u8 rest[16][V];
  for (u64 c = 0; c < n; c += V) {
    if (n - c < V) {  // the last bytes of each row, made up to a vector
      memset(rest, 0, sizeof rest);
      for (int k = 0; k < count; ++k) memcpy(rest[k], r[k] + c, n - c);
      for (int k = 0; k < 16; ++k) r[k] = rest[k] - c;
    }
    if (ahead && (V == 64 || c % 64 == 0))
      for (int k = 0; k < count; ++k) prefetch(rows[k] + c + 1024);
    auto row = [&](int k) INLINE_LAMBDA { return loadq(r[k] + c); };
    auto plane = [&](int b) INLINE_LAMBDA { return b < nplanes ? loadq(planes[b] + c) : Q{}; };
    Q ones = plane(0), twos = plane(1), fours = plane(2), carry;
    auto four = [&](int k) INLINE_LAMBDA {
      Q two0 = add3(ones, row(k), row(k + 1)), two1 = add3(ones, row(k + 2), row(k + 3));
      return add3(twos, two0, two1);
    };
    auto eight = [&](int k) INLINE_LAMBDA {
      Q four0 = four(k), four1 = four(k + 4);
      return add3(fours, four0, four1);
    };
    int b = 2;
    if (count <= 4) {
      carry = four(0);
    } else {
      carry = eight(0), b = 3;
      if (count > 8) {
        Q eights = plane(3);
        carry = add3(eights, carry, eight(8)), b = 4;
        if (nplanes > 3) storev(planes[3] + c, eights);
      }
      if (nplanes > 2) storev(planes[2] + c, fours);
    }
    storev(planes[0] + c, ones);
    if (nplanes > 1) storev(planes[1] + c, twos);
    for (; b < nplanes; ++b) {
      Q p = loadq(planes[b] + c);
      storev(planes[b] + c, p ^ carry);
      carry &= p;
    }
  }
}

// The counts of one slab of `count` rows, in planes of its own.
struct Slab {
  alignas(64) u8 bits[16][SLAB];
  u8* planes[16];
  int nplanes;

  INLINE void fill(const Row* rows, u64 count, u64 first, u64 n) {
    nplanes = 1;
    while (count >> nplanes) ++nplanes;
    for (int b = 0; b < nplanes; ++b) {
      planes[b] = bits[b];
      memset(bits[b], 0, (n + 63) & ~(u64)63);
    }
    Row some[16];
    for (u64 k = 0; k < count; k += ABREAST) {
      int m = (int)least(ABREAST, count - k);
      for (int j = 0; j < m; ++j) some[j] = rows[k + (u64)j] + first;
      add_rows(some, m, planes, nplanes, n, true);
    }
  }
};

// The counts of the 64 coordinates at byte c as 8, 16 or 32 bit numbers.
template <class T>
INLINE void expand(u8* const* planes, int nplanes, u64 c, T to[64]) {
#if defined(__AVX512BW__)
  if (sizeof(T) == 1) {
    __m512i sum = _mm512_setzero_si512();
    for (int b = 0; b < nplanes; ++b)
      sum = _mm512_mask_add_epi8(sum, load<u64>(planes[b] + c), sum, _mm512_set1_epi8((char)(1 << b)));
    _mm512_storeu_si512(to, sum);
    return;
  }
  if (sizeof(T) == 2) {
    __m512i low = _mm512_setzero_si512(), high = low;
    for (int b = 0; b < nplanes; ++b) {
      u64 bits = load<u64>(planes[b] + c);
      const __m512i one = _mm512_set1_epi16((short)(1 << b));
      low = _mm512_mask_add_epi16(low, (u32)bits, low, one);
      high = _mm512_mask_add_epi16(high, (u32)(bits >> 32), high, one);
    }
    _mm512_storeu_si512(to, low), _mm512_storeu_si512(to + 32, high);
    return;
  }
#endif
  for (int j = 0; j < 64; ++j) to[j] = 0;
  for (int first = 0; first < nplanes; first += 8) {
    alignas(64) u8 part[64];
    int last = nplanes < first + 8 ? nplanes : first + 8;
#if defined(__AVX2__)
    for (int h = 0; h < 2; ++h) {
      __m256i sum = _mm256_setzero_si256();
      for (int b = last; b-- > first;)
        sum = _mm256_sub_epi8(_mm256_add_epi8(sum, sum), mask_bytes(load<u32>(planes[b] + c + 4 * h)));
      _mm256_store_si256((__m256i*)(part + 32 * h), sum);
    }
#else
    for (int j = 0; j < 8; ++j) {
      u64 sum = 0;
      for (int b = first; b < last; ++b) sum |= SPREAD.of[planes[b][c + (u64)j]] << (b - first);
      store(part + 8 * j, sum);
    }
#endif
    if (sizeof(T) == 1) {
      memcpy(to, part, 64);
      return;
    }
    for (int j = 0; j < 64; ++j) to[j] = (T)(to[j] + ((T)part[j] << first));
  }
}

template <class T>
INLINE void counts(const Row* rows, u64 count, T* out, u64 begin, u64 end) {
  Slab slab;
  emit(out, begin, end, [&](u64 i, u64 n, T* to) INLINE_LAMBDA {
    u64 at = (i - begin) / 8 % SLAB;
    if (at == 0) slab.fill(rows, count, i / 8, least(SLAB, bytes_of(end - i)));
    for (u64 k = 0; k < n; k += 64) {
      if (n - k >= 64) {
        expand(slab.planes, slab.nplanes, at + k / 8, to + k);
      } else {
        T last[64];
        expand(slab.planes, slab.nplanes, at + k / 8, last);
        memcpy(to + k, last, (n - k) * sizeof(T));
      }
    }
  });
}

// How often each coordinate is set in `count` rows (below 65536), in `width` = 1 or 2 bytes.
void vote_counts(const Row* rows, u64 count, void* out, int width, u64 begin, u64 end) {
  if (width == 1) counts(rows, count, (u8*)out, begin, end);
  else counts(rows, count, (u16*)out, begin, end);
}

// Where count > bound, and where count == bound.
INLINE Q above(u8* const* planes, int nplanes, u64 bound, u64 c, Q* equal) {
  Q over = {}, same = ~Q{};
  for (int b = nplanes; b--;) {
    Q p = loadq(planes[b] + c);
    if (bound >> b & 1) same &= p;
    else over |= same & p, same &= ~p;
  }
  *equal = same;
  return over;
}

INLINE void put(u8* out, u64 first, u64 c, u64 n, Q v, u64 end) {  // n bytes of v; bits from coordinate `end` on are zero
  if (n - c >= V && (first + c + V) * 8 <= end) {
    storev(out + first + c, v);
    return;
  }
  u8 rest[V];
  storev(rest, v);
  u64 m = least((u64)V, n - c);
  if ((first + c + m) * 8 > end) rest[m - 1] &= (u8)(0xff >> (8 - (end & 7)));
  memcpy(out + first + c, rest, m);
}

INLINE Q get(const u8* in, u64 c, u64 n) {
  if (n - c >= V) return loadq(in + c);
  u8 rest[V] = {};
  memcpy(rest, in + c, n - c);
  return loadq(rest);
}

// Set where more than half of the rows are set; where exactly half are, the bit of `ties` (may be null: zero).
void vote_majority(const Row* rows, u64 count, const u8* ties, u8* out, u64 begin, u64 end) {
  Slab slab;
  for (u64 i = begin; i < end; i += 8 * SLAB) {
    u64 n = least(SLAB, bytes_of(end - i));
    slab.fill(rows, count, i / 8, n);
    for (u64 c = 0; c < n; c += V) {
      Q tie, won = above(slab.planes, slab.nplanes, count / 2, c, &tie);
      if (ties && count % 2 == 0) won |= tie & get(ties + i / 8, c, n);
      put(out, i / 8, c, n, won, end);
    }
  }
}

// +1 or -1 where it has more votes than either other symbol, else 0 (so every tie is 0).
void vote_plurality(const Row* pos, const Row* neg, u64 count, u8* out_pos, u8* out_neg, u64 begin, u64 end) {
  Slab plus, minus;
  for (u64 i = begin; i < end; i += 8 * SLAB) {
    u64 n = least(SLAB, bytes_of(end - i));
    plus.fill(pos, count, i / 8, n);
    minus.fill(neg, count, i / 8, n);
    for (u64 c = 0; c < n; c += V) {
      Q borrow0 = {}, borrow1 = {}, up = {}, down = {}, up0 = {}, down0 = {};
      for (int b = 0; b < plus.nplanes; ++b) {  // bit by bit: zero = count - plus - minus, and who is larger so far
        Q total = Q{} - (u64)(count >> b & 1), p = loadq(plus.bits[b] + c), m = loadq(minus.bits[b] + c);
        Q left = xor3(total, p, borrow0), zero = xor3(left, m, borrow1);
        borrow0 = greater(p, total, borrow0);
        borrow1 = greater(m, left, borrow1);
        up = greater(p, m, up), down = greater(m, p, down);
        up0 = greater(p, zero, up0), down0 = greater(m, zero, down0);
      }
      put(out_pos, i / 8, c, n, up & up0, end);
      put(out_neg, i / 8, c, n, down & down0, end);
    }
  }
}

// planes += up to 16 rows, over whole arrays: the step of a streaming count. Planes are padded to 64 bytes.
void planes_add(const Row* rows, u64 count, u8* const* planes, int nplanes, u64 begin, u64 end) {
  for (u64 i = begin; i < end; i += 8 * SLAB) {
    Row some[16];
    u8* slab[MOST_PLANES];
    for (u64 k = 0; k < count; ++k) some[k] = rows[k] + i / 8;
    for (int b = 0; b < nplanes; ++b) slab[b] = planes[b] + i / 8;
    add_rows(some, (int)count, slab, nplanes, least(SLAB, bytes_of(end - i)), false);
  }
}

// weight * (2 count - total), or with `minus` planes weight * (count - count of minus); added to `out` where `add` is set.
void planes_sum(u8* const* planes, u8* const* minus, int nplanes, i32 total, float weight, int add, float* out, u64 begin,
                u64 end) {
  auto body = [&](u64 i, u64 n, float* to) INLINE_LAMBDA {
    for (u64 k = 0; k < n; k += 64) {
      alignas(64) i32 a[64], b[64];
      if (nplanes <= 16) {
        alignas(64) u16 narrow[64];
        expand(planes, nplanes, (i + k) / 8, narrow);
        for (int j = 0; j < 64; ++j) a[j] = narrow[j];
        if (minus) expand(minus, nplanes, (i + k) / 8, narrow);
        for (int j = 0; j < 64; ++j) b[j] = minus ? narrow[j] : total - a[j];
      } else {
        expand(planes, nplanes, (i + k) / 8, (u32*)a);
        if (minus) expand(minus, nplanes, (i + k) / 8, (u32*)b);
        for (int j = 0; !minus && j < 64; ++j) b[j] = total - a[j];
      }
      float v[64];
      for (int j = 0; j < 64; ++j) v[j] = weight * (float)(a[j] - b[j]);
      u64 m = least((u64)64, n - k);
      if (add) for (u64 j = 0; j < m; ++j) to[k + j] += v[j];
      else if (m == 64) memcpy(to + k, v, sizeof v);
      else memcpy(to + k, v, m * 4);
    }
  };
  if (add) body(begin, end - begin, out + begin);
  else emit(out, begin, end, body);
}

}  // namespace
