// Values to bits: random coins (Philox4x32-10), signs, ternary planes. The specification is `_reference.py`.
#pragma once
#include "simd.hpp"

namespace {

constexpr u32 M0 = 0xD2511F53, M1 = 0xCD9E8D57;
constexpr u64 TILE = 128;  // coordinates that share 16 Philox blocks

// The keys of the ten rounds, and what the first two rounds have in common for all blocks below 2^32, in every lane.
struct Philox {
  u64 seed, stream;
  Q k0[10], k1[10];
  Q first2, second0, second2, third3;

  Philox(u64 seed, u64 stream) : seed(seed), stream(stream) {
    for (u32 r = 0; r < 10; ++r) {
      k0[r] = Q{} + (u64)((u32)seed + r * 0x9E3779B9);
      k1[r] = Q{} + (u64)((u32)(seed >> 32) + r * 0xBB67AE85);
    }
    u64 p1 = (u64)M1 * (u32)stream;
    u64 p0 = (u64)M0 * ((u32)(p1 >> 32) ^ (u32)k0[0][0]);
    first2 = (stream >> 32) ^ k1[0];
    second0 = (u64)(u32)p1 ^ k0[1];
    second2 = (p0 >> 32) ^ k1[1];
    third3 = Q{} + (u64)(u32)p0;
  }

  // The block at counter (block, stream, its upper half changed by `flip`).
  INLINE void block(u64 block, u32 flip, u32 to[4]) const {
    u32 c0 = (u32)block, c1 = (u32)(block >> 32), c2 = (u32)stream, c3 = (u32)(stream >> 32) ^ flip;
    for (int r = 0; r < 10; ++r) {
      u64 p0 = (u64)M0 * c0, p1 = (u64)M1 * c2;
      c0 = (u32)(p1 >> 32) ^ c1 ^ (u32)k0[r][0], c1 = (u32)p1;
      c2 = (u32)(p0 >> 32) ^ c3 ^ (u32)k1[r][0], c3 = (u32)p0;
    }
    to[0] = c0, to[1] = c1, to[2] = c2, to[3] = c3;
  }

  // The first word at counter (block, stream with bit 63 set): the bits that decide a tie.
  __attribute__((noinline)) u32 tie(u64 at) const {
    u32 words[4];
    block(at, 1u << 31, words);
    return words[0];
  }

  // The 16 blocks of N tiles: word w of blocks W g ... W g + W - 1 of tile n is words[(4 n + w) (16 / W) + g]. A chain makes
  // every other one of these blocks; the high halves of its 64-bit lanes hold rubbish, which the multiplication ignores. A
  // round waits for the one before, so some chains go side by side, and between rounds, `work(j)` is run for j = 0 ...
  // 128 N / W - 1: something for the processor to do meanwhile.
  template <int N, class Work>
  INLINE void tiles(u64 index, U words[N * 64 / W], Work work) const {
    constexpr int PAIRS = 16 / W, CHAINS = 2 * PAIRS * N, BESIDE = W < 8 || CHAINS < 4 ? 2 : 4;
    const Q m0 = Q{} + M0, m1 = Q{} + M1;
#pragma GCC unroll 4
    for (int first = 0; first < CHAINS; first += BESIDE) {
      Q c0[BESIDE], c1[BESIDE], c2[BESIDE], c3[BESIDE];
#pragma GCC unroll 4
      for (int t = 0; t < BESIDE; ++t) {
        const int chain = first + t;
        Q lane;  // even and odd blocks
        for (int l = 0; l < W / 2; ++l) lane[l] = (u64)M0 * (u64)(chain % (2 * PAIRS) / 2 * W + chain % 2 + 2 * l);
        Q p0 = lane + (u64)M0 * 16 * (index + (u64)(chain / (2 * PAIRS)));  // round 1
        Q p1 = multiply((p0 >> 32) ^ first2, m1);                           // round 2
        c0[t] = (p1 >> 32) ^ second0, c1[t] = p1;
        c2[t] = p0 ^ second2, c3[t] = third3;
      }
#pragma GCC unroll 8
      for (int r = 2; r < 10; ++r) {
#pragma GCC unroll 4
        for (int t = 0; t < BESIDE; ++t) {
          Q p0 = multiply(c0[t], m0), p1 = multiply(c2[t], m1);
          if (r == 9 && t % 2) {  // the last words of odd blocks are made where they belong, in high halves
            c0[t] = xor3(p1, c1[t] << 32, k0[r] << 32), c1[t] = p1;
            c2[t] = xor3(p0, c3[t] << 32, k1[r] << 32), c3[t] = p0;
          } else {
            c0[t] = xor3(p1 >> 32, c1[t], k0[r]), c1[t] = p1;
            c2[t] = xor3(p0 >> 32, c3[t], k1[r]), c3[t] = p0;
          }
        }
#pragma GCC unroll 2
        for (int n = 0; n < BESIDE / 2; ++n) work((8 * first + (r - 2) * BESIDE) / 2 + n);
      }
#pragma GCC unroll 2
      for (int t = 0; t < BESIDE; t += 2) {
        U* to = words + (first + t) / (2 * PAIRS) * 4 * PAIRS + (first + t) / 2 % PAIRS;
        to[0] = halves(c0[t], c0[t + 1]);
        to[PAIRS] = weave(c1[t], c1[t + 1]);
        to[2 * PAIRS] = halves(c2[t], c2[t + 1]);
        to[3 * PAIRS] = weave(c3[t], c3[t + 1]);
      }
    }
  }
};

// The 16 random bits of coordinates W j ... W j + W - 1 of some tiles.
INLINE I random16(const U* words, int j) {
  U word = words[(j * W >> 5) * (16 / W) + (j * W & 15) / W];
  return (I)(j * W & 16 ? word >> 16 : word & 0xffff);
}

INLINE u32 coin_of(const U* words, u64 c) {  // that of coordinate c alone
  return load<u16>((const u16*)words + (c / 32 * 32 + c % 16 * 2 + c / 16 % 2));
}

// The coins of 128 N coordinates: vector j of `scaled` is 65536 p of coordinates W j ... W j + W - 1 of them.
template <int N, class Scaled>
struct Coins {
  const U* words;
  Scaled scaled;
  u64 bits[2 * N] = {};
  u32 tied = 0;

  INLINE void toss(int j) {
    I r = random16(words, j), t = __builtin_convertvector(scaled(j), I);
    bits[j * W >> 6] |= (u64)lanes_less(r, t) << (j * W & 63);
    tied |= lanes_equal(r, t);
  }
  INLINE void settle(const Philox& philox, u64 start) {  // where 16 bits do not decide
    if (__builtin_expect(tied == 0, 1)) return;
    for (int j = 0; j < 128 * N / W; ++j) {
      F s = scaled(j);
      I t = __builtin_convertvector(s, I);
      F rest = (s - __builtin_convertvector(t, F)) * 16777216.0f;
      for (u32 left = lanes_equal(random16(words, j), t); left; left &= left - 1) {
        int l = __builtin_ctz(left), c = j * W + l;
        u64 coin = philox.tie(start + (u64)c) >> 8 < (u32)rest[l];
        bits[c >> 6] |= coin << (c & 63);
      }
    }
  }
};

template <int N>
struct Tiles {
  static constexpr int COUNT = N;
};
constexpr int TOGETHER = W == 16 ? 2 : 1;  // tiles at a time, where there are registers for them

// Runs `tile(Tiles<N>, x, i, nbytes)` on 128 N values at a time; the last ones are made up with `padding`, which must encode
// as 0.
template <class Tile>
INLINE void by_tiles(const float* x, float padding, u64 begin, u64 end, Tile tile) {
  u64 i = begin;
  for (; i + TOGETHER * TILE <= end; i += TOGETHER * TILE) {
    for (int line = 0; line < 8 * TOGETHER; ++line) prefetch((const char*)(x + i) + AHEAD + 64 * line);
    tile(Tiles<TOGETHER>{}, x + i, i, (u64)16 * TOGETHER);
  }
  for (; i < end; i += TILE) {
    float rest[TILE];
    u64 n = least(TILE, end - i);
    for (u64 j = 0; j < TILE; ++j) rest[j] = padding;
    memcpy(rest, x + i, n * 4);
    tile(Tiles<1>{}, rest, i, bytes_of(n));
  }
}

// The same with coins: `scaled(x, j)` is 65536 times the probabilities of vector j, and `put(x, i, bits, nbytes)` takes what
// was tossed. The random bits of the next tiles are made while these are tossed, but where two tiles at a time keep the
// processor as busy.
template <class Scaled, class Put>
INLINE void toss(const Philox& philox, const float* x, float padding, u64 begin, u64 end, Scaled scaled, Put put) {
  constexpr u64 STEP = TOGETHER * TILE;
  alignas(64) U words[2][TOGETHER * 64 / W];
  bool ready = false;
  int now = 0;
  by_tiles(x, padding, begin, end, [&](auto tiles, const float* v, u64 i, u64 n) INLINE_LAMBDA {
    constexpr int N = decltype(tiles)::COUNT;
    auto each = [&](int j) INLINE_LAMBDA { return scaled(v, j); };
    if (W < 16 && N == TOGETHER && i + 2 * STEP <= end) {
      if (!ready) philox.tiles<N>(i / TILE, words[now], [](int) INLINE_LAMBDA {});
      Coins<N, decltype(each)> coins{words[now], each};
      philox.tiles<N>(i / TILE + N, words[1 - now], [&](int j) INLINE_LAMBDA { coins.toss(j); });
      coins.settle(philox, i);
      put(v, i, coins.bits, n);
      now = 1 - now, ready = true;
    } else {
      if (!ready) philox.tiles<N>(i / TILE, words[now], [](int) INLINE_LAMBDA {});
      Coins<N, decltype(each)> coins{words[now], each};
#pragma GCC unroll 32
      for (int j = 0; j < 128 * N / W; ++j) coins.toss(j);
      coins.settle(philox, i);
      put(v, i, coins.bits, n);
      ready = false;
    }
  });
}

void encode_bernoulli(const float* p, u64 seed, u64 stream, u8* out, u64 begin, u64 end) {
  toss(Philox(seed, stream), p, 0, begin, end, [](const float* x, int j) INLINE_LAMBDA { return loadf(x + j * W) * 65536.0f; },
       [&](const float*, u64 i, const u64* bits, u64 n) INLINE_LAMBDA { memcpy(out + i / 8, bits, n); });
}

// P(1) = x / 2 + 1 / 2, the probability rounded to float32 as if it were stored: scaling by 65536 commutes with that.
void encode_binary(const float* v, u64 seed, u64 stream, u8* out, u64 begin, u64 end) {
  toss(Philox(seed, stream), v, -1, begin, end,
       [](const float* x, int j) INLINE_LAMBDA { return loadf(x + j * W) * 32768.0f + 32768.0f; },
       [&](const float*, u64 i, const u64* bits, u64 n) INLINE_LAMBDA { memcpy(out + i / 8, bits, n); });
}

// Bit i is set where x[i] >= 0, for SIGNS_AT_ONCE values.
#if defined(__SSE2__) && !defined(__AVX2__)
constexpr int SIGNS_AT_ONCE = 16;  // masks of four vectors, narrowed to bytes: fewer moves to the other registers
INLINE u64 signs_of(const float* x) {
  __m128i m[4];
  for (int k = 0; k < 4; ++k) m[k] = _mm_castps_si128(_mm_cmple_ps(_mm_setzero_ps(), _mm_loadu_ps(x + 4 * k)));
  return (u64)_mm_movemask_epi8(_mm_packs_epi16(_mm_packs_epi32(m[0], m[1]), _mm_packs_epi32(m[2], m[3])));
}
#else
constexpr int SIGNS_AT_ONCE = W;
INLINE u64 signs_of(const float* x) { return lanes_not_below(loadf(x), F{}); }
#endif

void encode_sign(const float* v, u8* out, u64 begin, u64 end) {
  by_tiles(v, -1, begin, end, [&](auto tiles, const float* x, u64 i, u64 n) INLINE_LAMBDA {
    constexpr int N = decltype(tiles)::COUNT;
    u64 bits[2 * N] = {};
#pragma GCC unroll 32
    for (int j = 0; j < 128 * N; j += SIGNS_AT_ONCE) bits[j >> 6] |= signs_of(x + j) << (j & 63);
    memcpy(out + i / 8, bits, n);
  });
}

template <bool UNIT>
INLINE void ternary(const float* v, float scale, const Philox& philox, u8* pos, u8* neg, u64 begin, u64 end) {
  auto scaled = [&](const float* x, int j) INLINE_LAMBDA {
    F size = absolute(loadf(x + j * W));
    return least(UNIT ? size : size / scale, fill(1)) * 65536.0f;
  };
  toss(philox, v, 0, begin, end, scaled, [&](const float* x, u64 i, const u64* hit, u64 n) INLINE_LAMBDA {
    u64 minus[2 * TOGETHER] = {}, p[2 * TOGETHER], m[2 * TOGETHER];
    int words = (int)(n + 7) / 8;
#pragma GCC unroll 32
    for (int j = 0; j < 128 * TOGETHER; j += W)
      if (j < 64 * words) minus[j >> 6] |= (u64)lanes_negative(loadf(x + j)) << (j & 63);
    for (int k = 0; k < words; ++k) p[k] = hit[k] & ~minus[k], m[k] = hit[k] & minus[k];
    memcpy(pos + i / 8, p, n);
    memcpy(neg + i / 8, m, n);
  });
}

void encode_ternary(const float* x, float scale, u64 seed, u64 stream, u8* pos, u8* neg, u64 begin, u64 end) {
  const Philox philox(seed, stream);
  if (scale == 1) ternary<true>(x, scale, philox, pos, neg, begin, end);
  else ternary<false>(x, scale, philox, pos, neg, begin, end);
}

void encode_ternary_threshold(const float* v, float t, u8* pos, u8* neg, u64 begin, u64 end) {
  by_tiles(v, 0, begin, end, [&](auto tiles, const float* x, u64 i, u64 n) INLINE_LAMBDA {
    constexpr int N = decltype(tiles)::COUNT;
    u64 p[2 * N] = {}, m[2 * N] = {};
#pragma GCC unroll 32
    for (int j = 0; j < 128 * N; j += W) {
      F a = loadf(x + j);
      p[j >> 6] |= (u64)lanes_less(fill(t), a) << (j & 63);
      m[j >> 6] |= (u64)lanes_less(a, fill(-t)) << (j & 63);
    }
    memcpy(pos + i / 8, p, n);
    memcpy(neg + i / 8, m, n);
  });
}

// The first n words of each of K streams, word i from block i / 4.
void random_words(const u64* seeds, const u64* streams, u64 n, u32* out, u64 K) {
  for (u64 k = 0; k < K; ++k) {
    const Philox philox(seeds[k], streams[k]);
    u32 *to = out + k * n, last[4];
    for (u64 b = 0; b < n / 4; ++b) philox.block(b, 0, to + 4 * b);
    philox.block(n / 4, 0, last);
    memcpy(to + n / 4 * 4, last, n % 4 * 4);
  }
}

// Rows [begin, end) of a cohort [K, d], each with its own stream; `kind` is 0 for probabilities, 1 for values in [-1, 1], 2 for
// ternary planes (two for each row).
void encode_rows(const float* x, u64 d, const u64* seeds, const u64* streams, int kind, u8* out, u64 begin, u64 end) {
  u64 n = bytes_of(d);
  for (u64 k = begin; k < end; ++k) {
    if (kind == 0) encode_bernoulli(x + k * d, seeds[k], streams[k], out + k * n, 0, d);
    else if (kind == 1) encode_binary(x + k * d, seeds[k], streams[k], out + k * n, 0, d);
    else encode_ternary(x + k * d, 1, seeds[k], streams[k], out + 2 * k * n, out + (2 * k + 1) * n, 0, d);
  }
}

INLINE u32 top_lane(I all) {
  u32 top = 0;
  for (int l = 0; l < W; ++l) top = (u32)all[l] > top ? (u32)all[l] : top;
  return top;
}

// The largest magnitude as its bits; above 0x7f800000 if there is a NaN. AWAY: `x` comes from memory.
template <bool AWAY>
INLINE u32 top_of(const float* x, u64 begin, u64 end) {
  I some[4] = {};
  u64 i = begin;
  for (; i + 4 * W <= end; i += 4 * W)
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      if (AWAY && (k * V) % 64 == 0) prefetch((const char*)(x + i + k * W) + AHEAD);
      some[k] = most(some[k], (I)loadf(x + i + k * W) & 0x7fffffff);
    }
  u32 top = top_lane(most(most(some[0], some[1]), most(some[2], some[3])));
  for (; i < end; ++i) {
    u32 m = load<u32>(x + i) & 0x7fffffff;
    top = m > top ? m : top;
  }
  return top;
}
u32 largest(const float* x, u64 begin, u64 end) { return top_of<true>(x, begin, end); }

// The sum of x and that of its squares (which are exact): 16 lanes, then their halves.
void moments(const float* x, u64 n, double* out) {
  double sum[16] = {}, square[16] = {};
  u64 full = n / 16 * 16;
  for (u64 i = 0; i < full; i += 16)
#pragma GCC unroll 1
    for (int l = 0; l < 16; ++l) {
      double v = load<float>(x + i + l);
      sum[l] += v, square[l] += v * v;
    }
  for (u64 l = 0; l < n - full; ++l) {
    double v = load<float>(x + full + l);
    sum[l] += v, square[l] += v * v;
  }
  for (int half = 8; half; half /= 2)
    for (int l = 0; l < half; ++l) sum[l] += sum[l + half], square[l] += square[l + half];
  out[0] = sum[0], out[1] = square[0];
}

}  // namespace
