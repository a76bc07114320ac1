// QSGD: stochastic rounding to 2, 4 or 8 bits, one scale for 4096 values.
#pragma once
#include "encode.hpp"

namespace {

constexpr u64 BUCKET = 4096;
constexpr float TINY = 0x1p-100f;

INLINE float levels_of(int bits) { return (float)((1 << (bits - 1)) - 1); }

template <int BITS>
INLINE void pack_codes(const u8* codes, u64 n, u8* out) {  // n codes, zeros beyond them
  u64 size = bytes_of(n * BITS);
  if (BITS == 8) memcpy(out, codes, size);
  for (u64 i = 0; BITS == 4 && i < size; ++i) out[i] = (u8)(codes[2 * i] | codes[2 * i + 1] << 4);
  for (u64 i = 0; BITS == 2 && i < size; ++i) {
    u32 four = load<u32>(codes + 4 * i);
    out[i] = (u8)(four | four >> 6 | four >> 12 | four >> 18);
  }
}

// The code of the value at `at` whose coin is r. With T = trunc(65536 y), y = |x| factor, the steps are T >> 16, and one more
// where r is below t = T & 65535, or where they are equal and 24 bits more decide.
template <int BITS>
INLINE u8 code_of(float x, u32 r, float factor, const Philox& philox, u64 at) {
  const float levels = levels_of(BITS), most = levels * 65536.0f, y = __builtin_fabsf(x) * (factor * 65536.0f);
  const float scaled = y < most ? y : most;
  const u32 T = (u32)scaled, t = T & 0xffff;
  const bool up = r < t || (r == t && philox.tie(at) >> 8 < (u32)((scaled - (float)T) * 16777216.0f));
  const int steps = (int)((T >> 16) + up);
  return (u8)((int)levels + (__builtin_signbit(x) ? -steps : steps));
}

// The codes of n values of one bucket. Rounding up where r < t is (T + 65535 - r) >> 16; only ties need a look.
template <int BITS>
__attribute__((noinline)) void encode_bucket(const float* x, u64 i, u64 n, float factor, const Philox& philox, u8* out) {
  const float levels = levels_of(BITS);
  alignas(64) u8 codes[BUCKET];
  alignas(64) U words[2][64 / W];  // of this tile, and of the next, made meanwhile
  philox.tiles<1>(i / TILE, words[0], [](int) INLINE_LAMBDA {});
  for (u64 k = 0; k < n; k += TILE) {
    float rest[TILE];
    const float* v = x + k;
    const U* now = words[k / TILE % 2];
    if (n - k < TILE) {
      memset(rest, 0, sizeof rest);
      memcpy(rest, v, (n - k) * 4);
      v = rest;
    } else {
      for (int line = 0; line < 8; ++line) prefetch((const char*)v + AHEAD + 64 * line);
    }
    u32 tied = 0;
    alignas(64) i32 wide[TILE];
    auto encode = [&](int j) INLINE_LAMBDA {
      F scaled = least(absolute(loadf(v + j * W)) * (factor * 65536.0f), fill(levels * 65536.0f));
      I r = random16(now, j), T = __builtin_convertvector(scaled, I), sign = (I)loadf(v + j * W) >> 31;
      tied |= lanes_equal(r, T & 0xffff);
      I code = ((((T + 0xffff) - r) >> 16 ^ sign) - sign) + (i32)levels;
      storev(wide + j * W, code);
    };
    if (k + TILE < n) {
      philox.tiles<1>((i + k) / TILE + 1, words[1 - k / TILE % 2], encode);
    } else {
#pragma GCC unroll 32
      for (int j = 0; j < (int)TILE / W; ++j) encode(j);
    }
    for (int j = 0; j < 128; ++j) codes[k + j] = (u8)wide[j];
    for (; __builtin_expect(tied != 0, 0); tied &= tied - 1)
      for (u64 c = (u64)__builtin_ctz(tied); c < TILE; c += W)
        codes[k + c] = code_of<BITS>(load<float>(v + c), coin_of(now, c), factor, philox, i + k + c);
  }
  memset(codes + n, 0, least((u64)8, BUCKET - n));
  pack_codes<BITS>(codes, n, out);
}

// Below, values keep their signs: x (65536 factor) becomes 65536 step + t, rounded down, and goes up a step where t > r, as above.
// A negative one has the complement of its magnitude's lower bits for t: it goes up where t exceeds the complement of r.

#if defined(__AVX512VBMI__)
// Of two vectors of dwords: the lower words in turn, as Philox words hold the coins, and the upper ones; and the lower bytes of
// the words of two such results, put in order.
struct InTurn {
  u16 low[32], high[32];
  u8 back[64];
  constexpr InTurn() : low(), high(), back() {
    for (int i = 0; i < 32; ++i) low[i] = (u16)(i % 2 * 32 + i / 2 * 2), high[i] = (u16)(low[i] + 1);
    for (int i = 0; i < 64; ++i) back[i] = (u8)(i / 32 * 64 + i % 16 * 4 + i % 32 / 16 * 2);
  }
};
alignas(64) constexpr InTurn IN_TURN;

// The codes of 64 values at a time, and the lanes of 16-bit coins among which one may have been tied: they are made again.
template <int BITS>
struct Codes {
  __m512 scale, limit;
  u32 untied = ~0u;

  INLINE explicit Codes(float factor)
      : scale(_mm512_set1_ps(factor * 65536.0f)), limit(_mm512_set1_ps(levels_of(BITS) * 65536.0f)) {}
  INLINE u32 tied() const { return ~untied; }
  static INLINE u32 begin(float&) { return 0; }
  static INLINE void end(u32, F*) {}

  INLINE void encode(const float* x, const U words[2], u8* out) {
    const __m512i low = load<__m512i>(IN_TURN.low), high = load<__m512i>(IN_TURN.high);
    __m512i step[2];
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      __m512i T[2];
      for (int k = 0; k < 2; ++k) {
        __m512 y = _mm512_mul_ps((__m512)loadf(x + 32 * h + 16 * k), scale);
        if (BITS == 8) y = _mm512_range_ps(y, limit, 2);  // the lesser magnitude; with fewer bits rounding cuts it anyway
        T[k] = _mm512_cvt_roundps_epi32(y, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
      }
      __m512i t = _mm512_permutex2var_epi16(T[0], low, T[1]), lower = _mm512_permutex2var_epi16(T[0], high, T[1]);
      __m512i coin = _mm512_xor_si512((__m512i)words[h], _mm512_srai_epi16(lower, 15));
      untied = _mm512_mask_cmpneq_epi16_mask(untied, t, coin);
      step[h] = _mm512_mask_add_epi16(lower, _mm512_cmpgt_epu16_mask(t, coin), lower, _mm512_set1_epi16(1));
    }
    __m512i steps = _mm512_permutex2var_epi8(step[0], load<__m512i>(IN_TURN.back), step[1]);
    if (BITS == 8) return store(out, _mm512_add_epi8(steps, _mm512_set1_epi8(127)));
    steps = _mm512_maddubs_epi16(_mm512_set1_epi16(BITS == 4 ? 0x1001 : 0x0401), steps);  // those of neighbours put together
    if (BITS == 4) return store(out, _mm256_add_epi8(_mm512_cvtepi16_epi8(steps), _mm256_set1_epi8(0x77)));
    steps = _mm512_madd_epi16(steps, _mm512_set1_epi32(0x00100001));
    store(out, _mm_add_epi8(_mm512_cvtepi32_epi8(steps), _mm_set1_epi8(0x55)));
  }
};

#elif defined(__AVX2__)
// Between `begin` and `end` the processor rounds down. A product is rounded once so, and may come out one less than the rounded
// product rounded down: that one is whole then, and the coin decides the same by both, or may be tied.
template <int BITS>
struct Codes {
  static constexpr int LEVELS = (1 << (BITS - 1)) - 1;
  static constexpr int NONE = (BITS == 8 ? 0 : 0x4B40) + LEVELS;  // what stands for no step: with fewer bits an exponent besides
  __m256 scale;
  __m256i least = _mm256_set1_epi16(0x7fff);  // of all (t - r + 65536) >> 1, as signed numbers: the sign says who goes up

  // What is computed between depends on `factor`, what is computed later on `top`, so that no compiler moves it.
  static INLINE u32 begin(float& factor) {
    asm volatile("" : "+x"(factor));
    const u32 before = _mm_getcsr();
    _mm_setcsr((before & ~(u32)_MM_ROUND_MASK) | _MM_ROUND_DOWN);
    asm volatile("" : "+x"(factor));
    return before;
  }
  static INLINE void end(u32 before, F top[4]) {
    asm volatile("" ::: "memory");
    _mm_setcsr(before);
    asm volatile("" : "+x"(top[0]), "+x"(top[1]), "+x"(top[2]), "+x"(top[3]));
  }

  INLINE explicit Codes(float factor) : scale(_mm256_set1_ps(factor * 65536.0f)) {}
  INLINE u32 tied() const {  // where t - r is 0 or 1
    __m256i tied = _mm256_cmpeq_epi16(least, _mm256_set1_epi16(-32768));
    __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(tied), _mm256_extracti128_si256(tied, 1));
    return (u32)_mm_movemask_epi8(bytes);
  }

  // 65536 (NONE + step) + t. Of fewer than 8 bits, these are the last bits of a float whose own last bit is worth 1.
  INLINE __m256i floored(const float* x) const {
    const __m256 levels = _mm256_set1_ps(LEVELS * 0x1p16f);
    if (BITS < 8) return (__m256i)_mm256_fmadd_ps((__m256)loadf(x), scale, _mm256_add_ps(levels, _mm256_set1_ps(0x1.8p23f)));
    __m256 y = _mm256_fmadd_ps((__m256)loadf(x), scale, levels);
    return _mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(y, _mm256_add_ps(levels, levels)), _mm256_setzero_ps()));
  }
  // NONE + step of values l of x and 16 + l, in turn, as the words hold their coins.
  INLINE __m256i coded(const float* x, U words) {
    __m256i a = floored(x), b = floored(x + 16);
    __m256i t = _mm256_blend_epi16(a, _mm256_slli_epi32(b, 16), 0xAA);
    __m256i lower = _mm256_blend_epi16(_mm256_srli_epi32(a, 16), b, 0xAA);
    __m256i missing = _mm256_xor_si256((__m256i)words, _mm256_cmpgt_epi16(lower, _mm256_set1_epi16(NONE - 1)));  // 65535 - r
    __m256i above = _mm256_avg_epu16(t, missing);
    least = _mm256_min_epi16(least, above);
    return _mm256_sub_epi16(lower, _mm256_srai_epi16(above, 15));
  }
  INLINE void encode(const float* x, const U words[4], u8* out) {
    __m256i codes[2];  // dword l: the codes of l, 8 + l, 16 + l and 24 + l
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      __m256i even = coded(x + 32 * h, words[2 * h]), odd = coded(x + 32 * h + 8, words[2 * h + 1]);
      codes[h] = _mm256_xor_si256(even, _mm256_slli_epi16(odd, 8));
    }
    const __m256i fours = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,  //
                                           0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m256i turns = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    if (BITS == 8) {
      store(out, _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(codes[0], fours), turns));
      return store(out + 32, _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(codes[1], fours), turns));
    }
    // Neighbours are put together in the first of their dwords, for which the upper bits of all need to be known, not 0.
    for (int h = 0; h < 2; ++h) codes[h] = _mm256_xor_si256(codes[h], _mm256_srli_epi64(codes[h], 32 - BITS));
    __m256i both = (__m256i)_mm256_shuffle_ps((__m256)codes[0], (__m256)codes[1], 0x88);
    if (BITS == 4) {
      both = _mm256_permute4x64_epi64(_mm256_xor_si256(both, _mm256_set1_epi16((int16_t)0xBF40)), 0xD8);
      return store(out, _mm256_shuffle_epi8(both, fours));
    }
    both = _mm256_xor_si256(both, _mm256_srli_epi64(both, 28));
    both = _mm256_permutevar8x32_epi32(both, _mm256_setr_epi32(0, 4, 2, 6, 0, 4, 2, 6));
    const __m128i in_turn = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    store(out, _mm_xor_si128(_mm_shuffle_epi8(_mm256_castsi256_si128(both), in_turn), _mm_set1_epi8(0x42)));
  }
};
#endif

#if defined(__AVX512VBMI__) || defined(__AVX2__)
// Makes the codes again whose coins stand in these 16-bit lanes of any word of some tiles, and those that share their bytes.
template <int BITS>
__attribute__((noinline)) void encode_again(const float* x, u64 i, u32 lanes, float factor, const Philox& philox, u8* out) {
  alignas(64) U words[TOGETHER * 64 / W];
  philox.tiles<TOGETHER>(i / TILE, words, [](int) INLINE_LAMBDA {});
  for (; lanes; lanes &= lanes - 1)
    for (u64 at = (u64)__builtin_ctz(lanes); at < TOGETHER * TILE; at += 2 * W) {
      const u64 byte = (at / 32 * 32 + at % 2 * 16 + at / 2 % 16) * BITS / 8;
      u32 codes = 0;
      for (u64 e = 0, c = byte * 8 / BITS; e < 8; e += BITS, ++c)
        codes |= (u32)code_of<BITS>(load<float>(x + c), coin_of(words, c), factor, philox, i + c) << e;
      out[byte] = (u8)codes;
    }
}

// A whole bucket; returns the largest magnitude of the one at `next`, whose values come from further away meanwhile.
template <int BITS>
INLINE u32 encode_whole(const float* x, u64 i, float factor, const Philox& philox, u8* out, const float* next) {
  constexpr u64 STEP = TOGETHER * TILE;
  F top[4] = {};
  u32 tied[BUCKET / STEP], any = 0;
  const u32 before = Codes<BITS>::begin(factor);
  for (u64 k = 0; k < BUCKET; k += STEP) {
    for (u64 line = 0; line < STEP / 16; ++line) prefetch((const char*)(next + k) + AHEAD + 64 * line);
    U words[STEP / 2 / W];
    philox.tiles<TOGETHER>((i + k) / TILE, words, [](int) INLINE_LAMBDA {});
    Codes<BITS> codes(factor);
#pragma GCC unroll 4
    for (u64 at = 0; at < STEP; at += 64) {
      codes.encode(x + k + at, words + at / 2 / W, out + (k + at) * BITS / 8);
#pragma GCC unroll 8
      for (u64 q = 0; q < 64 / W; ++q) top[q % 4] = larger(top[q % 4], loadf(next + k + at + q * W));
    }
    any |= tied[k / STEP] = codes.tied();
  }
  Codes<BITS>::end(before, top);
  for (u64 k = 0; any && k < BUCKET; k += STEP)  // not above, where a call would leave nothing in registers
    if (tied[k / STEP]) encode_again<BITS>(x + k, i + k, tied[k / STEP], factor, philox, out + k * BITS / 8);
  return top_lane(most(most((I)top[0], (I)top[1]), most((I)top[2], (I)top[3])));
}
#else
template <int BITS>
INLINE u32 encode_whole(const float* x, u64 i, float factor, const Philox& philox, u8* out, const float* next) {
  encode_bucket<BITS>(x, i, BUCKET, factor, philox, out);
  return top_of<false>(next, 0, BUCKET);
}
#endif

template <int BITS>
INLINE void encode_buckets(const float* x, const Philox& philox, u8* out, float* scale, u64 begin, u64 end) {
  const float levels = levels_of(BITS);
  u32 top = top_of<false>(x + begin, 0, least(BUCKET, end - begin));
  for (u64 i = begin; i < end; i += BUCKET) {
    const u64 n = least(BUCKET, end - i), rest = least(BUCKET, end - i - n);
    float s;
    memcpy(&s, &top, 4);
    if (s < TINY) s = 0;
    scale[i / BUCKET] = s;
    const float factor = s > 0 ? levels / s : 0.0f;
    const bool whole = rest == BUCKET;
    if (n == BUCKET) top = encode_whole<BITS>(x + i, i, factor, philox, out + i * BITS / 8, x + i + (whole ? BUCKET : 0));
    else encode_bucket<BITS>(x + i, i, n, factor, philox, out + i * BITS / 8);
    if (!whole) top = top_of<false>(x + i + n, 0, rest);
  }
}

void qsgd_encode(const float* x, int bits, u64 seed, u64 stream, u8* out, float* scale, u64 begin, u64 end) {
  const Philox philox(seed, stream);
  if (bits == 2) encode_buckets<2>(x, philox, out, scale, begin, end);
  else if (bits == 4) encode_buckets<4>(x, philox, out, scale, begin, end);
  else encode_buckets<8>(x, philox, out, scale, begin, end);
}

// Values (code - L) (s / L) of the n coordinates from i, all in one bucket; `map` says what becomes of them.
template <int BITS, class Map>
INLINE void decode_run(const u8* packed, float scale, u64 i, u64 n, Map map) {
  constexpr int EACH = 8 / BITS;
  const float levels = levels_of(BITS), step = scale / levels;
  const u8* in = packed + i * BITS / 8;
  u64 j = 0;
#if defined(__AVX512F__)
  if (BITS < 8) {  // 16 codes at a time through a table of all values
    float value[16];
    for (int c = 0; c < 16; ++c) value[c] = ((float)(c & ((1 << BITS) - 1)) - levels) * step;
    const __m512 table = _mm512_loadu_ps(value);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; j + 16 <= n; j += 16) {
      __m512i codes;
      if (BITS == 2) {
        codes = _mm512_srlv_epi32(_mm512_set1_epi32(load<i32>(in + j / 4)), _mm512_slli_epi32(lane, 1));
      } else {
        __m512i both = _mm512_permutexvar_epi32(_mm512_srli_epi32(lane, 3), _mm512_set1_epi64(load<int64_t>(in + j / 2)));
        codes = _mm512_srlv_epi32(both, _mm512_slli_epi32(_mm512_and_si512(lane, _mm512_set1_epi32(7)), 2));
      }
      map(j, (F)_mm512_permutexvar_ps(codes, table));
    }
  } else {
    for (; j + 16 <= n; j += 16) {
      __m512i codes = _mm512_cvtepu8_epi32(load<__m128i>(in + j));
      map(j, (__builtin_convertvector((I)codes, F) - levels) * step);
    }
  }
#elif defined(__AVX2__)
  const __m256i shift = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(BITS & 7));
  for (; j + 8 <= n; j += 8) {
    __m256i codes;
    if (BITS == 8) codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(in + j)));
    else codes = _mm256_set1_epi32(BITS == 2 ? load<u16>(in + j / 4) : load<i32>(in + j / 2));
    codes = _mm256_and_si256(_mm256_srlv_epi32(codes, shift), _mm256_set1_epi32((1 << BITS) - 1));
    map(j, (__builtin_convertvector((I)codes, F) - levels) * step);
  }
#else
  typedef u8 Narrow __attribute__((vector_size(W)));
  for (; j + W * EACH <= n; j += W * EACH) {
    Narrow raw;
    memcpy(&raw, in + j / EACH, W);
    u8 codes[W * EACH];
    for (int b = 0; b < W; ++b)
      for (int e = 0; e < EACH; ++e) codes[b * EACH + e] = (u8)(raw[b] >> e * BITS & ((1 << BITS) - 1));
    for (int e = 0; e < EACH; ++e) {
      Narrow some;
      memcpy(&some, codes + e * W, W);
      map(j + e * W, (__builtin_convertvector(__builtin_convertvector(some, I), F) - levels) * step);
    }
  }
#endif
  for (; j < n; ++j) {
    int code = in[j / EACH] >> j % EACH * BITS & ((1 << BITS) - 1);
    map(j, ((float)code - levels) * step);
  }
}

template <int BITS>
INLINE void decode_codes(const u8* packed, const float* scale, float* out, u64 begin, u64 end) {
  struct To {
    float* to;
    INLINE void operator()(u64 j, F v) const { storev(to + j, v); }
    INLINE void operator()(u64 j, float v) const { to[j] = v; }
  };
  emit(out, begin, end, [&](u64 i, u64 n, float* to) INLINE_LAMBDA {
    decode_run<BITS>(packed, load<float>(scale + i / BUCKET), i, n, To{to});
  });
}

void qsgd_decode(const u8* packed, const float* scale, int bits, float* out, u64 begin, u64 end) {
  if (bits == 2) decode_codes<2>(packed, scale, out, begin, end);
  else if (bits == 4) decode_codes<4>(packed, scale, out, begin, end);
  else decode_codes<8>(packed, scale, out, begin, end);
}

template <int BITS>
INLINE void add_codes(const u8* packed, const float* scale, float weight, float* sum, u64 begin, u64 end) {
  struct To {
    float *to, weight;
    INLINE void operator()(u64 j, F v) const { storev(to + j, loadf(to + j) + weight * v); }
    INLINE void operator()(u64 j, float v) const { to[j] += weight * v; }
  };
  for (u64 i = begin; i < end; i += BUCKET)
    decode_run<BITS>(packed, load<float>(scale + i / BUCKET), i, least(BUCKET, end - i), To{sum + i, weight});
}

// sum += weight * decoded, each product rounded before it is added.
void qsgd_add(const u8* packed, const float* scale, int bits, float weight, float* sum, u64 begin, u64 end) {
  if (bits == 2) add_codes<2>(packed, scale, weight, sum, begin, end);
  else if (bits == 4) add_codes<4>(packed, scale, weight, sum, begin, end);
  else add_codes<8>(packed, scale, weight, sum, begin, end);
}

// Whether no code is 2^bits - 1, which stands for no level.
int qsgd_valid(const u8* packed, u64 nbytes, int bits) {
  u64 bad = 0;
  for (u64 i = 0; i < nbytes; i += 8) {
    u64 x = 0;
    if (nbytes - i >= 8) memcpy(&x, packed + i, 8);
    else memcpy(&x, packed + i, nbytes - i);
    x &= x >> 1;
    if (bits >= 4) x &= x >> 2;
    if (bits == 8) x &= x >> 4;
    bad |= x & (bits == 2 ? 0x5555555555555555 : bits == 4 ? 0x1111111111111111 : 0x0101010101010101);
  }
  return bad == 0;
}

}  // namespace
