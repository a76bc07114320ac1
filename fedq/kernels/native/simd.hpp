// The vocabulary of the kernels: W lanes of 32 bits, as wide as this object's instruction set.
//
// Every object file compiles these headers for itself. All of it stands in an unnamed namespace, and no inline function
// of the standard library is used: else the linker could hand AVX-512 code to a caller on a machine without it.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

namespace {

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using i8 = int8_t;
using i32 = int32_t;
using i64 = int64_t;

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float F __attribute__((vector_size(4 * W)));
typedef i32 I __attribute__((vector_size(4 * W)));
typedef u32 U __attribute__((vector_size(4 * W)));
typedef u64 Q __attribute__((vector_size(4 * W)));
constexpr int V = 4 * W;  // bytes of a vector

constexpr u64 NT_BYTES = 16 << 20;  // outputs above this go past the cache, which would not hold them until they are read
constexpr int AHEAD = 8192;        // bytes to prefetch ahead of a stream

template <class T>
INLINE T load(const void* p) {
  T v;
  memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
INLINE void store(void* p, T v) {
  memcpy(p, &v, sizeof v);
}
INLINE F loadf(const float* p) { F v; memcpy(&v, p, V); return v; }
INLINE Q loadq(const void* p) { Q v; memcpy(&v, p, V); return v; }
INLINE U loadu(const void* p) { U v; memcpy(&v, p, V); return v; }
INLINE void storev(void* p, F v) { memcpy(p, &v, V); }
INLINE void storev(void* p, Q v) { memcpy(p, &v, V); }
INLINE void storev(void* p, I v) { memcpy(p, &v, V); }
INLINE F fill(float x) { return F{} + x; }
INLINE F absolute(F x) { return (F)((I)x & 0x7fffffff); }
INLINE F least(F a, F b) {
#if defined(__AVX512F__)
  return (F)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (F)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
  return (F)_mm_min_ps((__m128)a, (__m128)b);
#else
  return a < b ? a : b;
#endif
}
INLINE I most(I a, I b) {
#if defined(__AVX512F__)
  return (I)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (I)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
  return a > b ? a : b;
#endif
}

INLINE F larger(F a, F b) {  // the larger magnitude, a's being known
#if defined(__AVX512F__)
  return (F)_mm512_range_ps((__m512)a, (__m512)b, 11);
#else
  return (F)most((I)a, (I)b & 0x7fffffff);
#endif
}

INLINE u64 least(u64 a, u64 b) { return a < b ? a : b; }
INLINE u64 bytes_of(u64 bits) { return (bits + 7) >> 3; }
INLINE void prefetch(const void* p) { __builtin_prefetch(p); }

// Bit l is set where lane l holds the relation.
INLINE u32 lanes_less(I a, I b) {
#if defined(__AVX512F__)
  return _mm512_cmplt_epi32_mask((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (u32)_mm256_movemask_ps((__m256)(a < b));
#elif defined(__SSE2__)
  return (u32)_mm_movemask_ps((__m128)(a < b));
#else
  u32 bits = 0;
  for (int l = 0; l < W; ++l) bits |= (u32)(a[l] < b[l]) << l;
  return bits;
#endif
}
INLINE u32 lanes_equal(I a, I b) {
#if defined(__AVX512F__)
  return _mm512_cmpeq_epi32_mask((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (u32)_mm256_movemask_ps((__m256)(a == b));
#elif defined(__SSE2__)
  return (u32)_mm_movemask_ps((__m128)(a == b));
#else
  u32 bits = 0;
  for (int l = 0; l < W; ++l) bits |= (u32)(a[l] == b[l]) << l;
  return bits;
#endif
}
INLINE u32 lanes_less(F a, F b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ);
#elif defined(__AVX2__)
  return (u32)_mm256_movemask_ps((__m256)(a < b));
#elif defined(__SSE2__)
  return (u32)_mm_movemask_ps((__m128)(a < b));
#else
  u32 bits = 0;
  for (int l = 0; l < W; ++l) bits |= (u32)(a[l] < b[l]) << l;
  return bits;
#endif
}
INLINE u32 lanes_not_below(F a, F b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ);
#elif defined(__AVX2__)
  return (u32)_mm256_movemask_ps((__m256)(a >= b));
#elif defined(__SSE2__)
  return (u32)_mm_movemask_ps((__m128)(a >= b));
#else
  u32 bits = 0;
  for (int l = 0; l < W; ++l) bits |= (u32)(a[l] >= b[l]) << l;
  return bits;
#endif
}
INLINE u32 lanes_negative(F a) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)a);
#elif defined(__AVX2__)
  return (u32)_mm256_movemask_ps((__m256)a);
#elif defined(__SSE2__)
  return (u32)_mm_movemask_ps((__m128)a);
#else
  u32 bits = 0;
  for (int l = 0; l < W; ++l) bits |= (u32)((I)a)[l] >> 31 << l;
  return bits;
#endif
}

// Products of the low halves of the 64-bit lanes.
INLINE Q multiply(Q a, Q b) {
#if defined(__AVX512F__)
  return (Q)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (Q)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (Q)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffff) * (b & 0xffffffff);
#endif
}

// The low halves of even's 64-bit lanes and the high ones of odd's.
INLINE U halves(Q even, Q odd) {
#if defined(__AVX512F__)
  return (U)_mm512_mask_mov_epi32((__m512i)even, 0xAAAA, (__m512i)odd);
#elif defined(__AVX2__)
  return (U)_mm256_blend_epi32((__m256i)even, (__m256i)odd, 0xAA);
#elif __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  return (U)((even & 0xffffffff) | (odd & ~0xffffffffull));
#else
#error "the kernels are written for little-endian machines"
#endif
}
// The low halves of the 64-bit lanes, woven: even0, odd0, even1, odd1, ...
INLINE U weave(Q even, Q odd) {
#if defined(__AVX512F__)
  return (U)_mm512_mask_shuffle_epi32((__m512i)even, 0xAAAA, (__m512i)odd, (_MM_PERM_ENUM)0xA0);
#else
  return halves(even, odd << 32);
#endif
}

INLINE Q xor3(Q a, Q b, Q c) {
#if defined(__AVX512F__)
  return (Q)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0x96);
#else
  return a ^ (b ^ c);  // of b and c what is known first
#endif
}
INLINE Q majority3(Q a, Q b, Q c) {
#if defined(__AVX512F__)
  return (Q)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0xE8);
#else
  return (a & b) | ((a ^ b) & c);
#endif
}
// Of numbers bit by bit, from the lowest: whether a > b so far, `low` saying so of the bits below.
INLINE Q greater(Q a, Q b, Q low) {
#if defined(__AVX512F__)
  return (Q)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)low, 0xB2);
#else
  return (a & low) | (~b & (a | low));
#endif
}

// 8 bits -> 8 bytes of 0 and 1.
struct Spread {
  u64 of[256];
  constexpr Spread() : of() {
    for (int bits = 0; bits < 256; ++bits) {
      u64 bytes = 0;
      for (int i = 0; i < 8; ++i) bytes |= (u64)(bits >> i & 1) << 8 * i;
      of[bits] = bytes;
    }
  }
};
constexpr Spread SPREAD;

#if defined(__AVX2__)
// 32 bits -> 32 bytes of 0 and 0xff.
INLINE __m256i mask_bytes(u32 bits) {
  const __m256i which = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201);
  __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32((i32)bits), which);
  return _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
}
#endif

#if defined(__AVX512VBMI__)
// Entries of a table of 256 bytes, 64 at a time.
struct Look256 {
  __m512i part[4];
  INLINE explicit Look256(const u8* table) {
    for (int k = 0; k < 4; ++k) part[k] = _mm512_loadu_si512(table + 64 * k);
  }
  INLINE __m512i operator()(__m512i at) const {
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(at), _mm512_permutex2var_epi8(part[0], at, part[1]),
                                  _mm512_permutex2var_epi8(part[2], at, part[3]));
  }
};
#endif

// The 8 x 8 bit matrix whose row r is byte r: its four 4 x 4 blocks transposed; and all of it.
template <class T>
INLINE T transpose4(T x) {
  T t = (x ^ x >> 7) & 0x00AA00AA00AA00AA;
  x ^= t ^ t << 7;
  t = (x ^ x >> 14) & 0x0000CCCC0000CCCC;
  return x ^ t ^ t << 14;
}
template <class T>
INLINE T transpose8(T x) {
  x = transpose4(x);
  T t = (x ^ x >> 28) & 0x00000000F0F0F0F0;
  return x ^ t ^ t << 28;
}

// Bytes [shift, shift + V) of the 2 V bytes `low`, `high`; `shift` is a multiple of 4 below V.
INLINE I join(I low, I high, int shift) {
#if defined(__AVX512F__)
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return (I)_mm512_permutex2var_epi32((__m512i)low, _mm512_add_epi32(lane, _mm512_set1_epi32(shift / 4)), (__m512i)high);
#elif defined(__AVX2__)
  const __m256i at = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(shift / 4));
  __m256 a = _mm256_permutevar8x32_ps((__m256)low, at), b = _mm256_permutevar8x32_ps((__m256)high, at);
  return (I)_mm256_blendv_ps(a, b, (__m256)_mm256_slli_epi32(at, 28));
#else
  (void)high, (void)shift;
  return low;
#endif
}

// Runs `body(i, n, to)` over [begin, end) in runs of at most N values, `to` being where the n values of coordinates i ...
// go: the output itself, or, for large outputs, a buffer that leaves through non-temporal stores. Those want whole aligned
// vectors, which an unaligned output shifts against the buffer's. They are shifted in registers: a load that straddles two
// stores would wait until both have left for the cache, behind all non-temporal ones.
constexpr u64 RUN = 512;
template <u64 N = RUN, class T, class Body>
INLINE void emit(T* out, u64 begin, u64 end, Body body) {
#if defined(__SSE2__)
  u8* const first = (u8*)(out + begin);
  const u64 shift = -(uintptr_t)first % V, size = (end - begin) * sizeof(T);
  if (size > NT_BYTES && shift % (V == 16 ? 16 : 4) == 0) {
    alignas(64) T buffer[N];
    I before = {};
    u64 done = 0;  // bytes of whole vectors that the body has made
    for (u64 i = begin; i < end; i += N) {
      u64 n = least(N, end - i), made = n * sizeof(T), k = 0;
      body(i, n, buffer);
      if (i == begin) {
        memcpy(first, buffer, shift);
        before = (I)loadq(buffer);
        done = k = V;
      }
      for (; k + V <= made; k += V, done += V) {
        I now = (I)loadq((u8*)buffer + k), line = join(before, now, (int)shift);
        I* to = (I*)(first + done - V + shift);
#if defined(__AVX512F__)
        _mm512_stream_si512((__m512i*)to, (__m512i)line);
#elif defined(__AVX2__)
        _mm256_stream_si256((__m256i*)to, (__m256i)line);
#else
        _mm_stream_si128((__m128i*)to, (__m128i)line);
#endif
        before = now;
      }
      if (i + n == end) {  // what is left of the last whole vector, and what came after it
        u8 rest[2 * V];
        storev(rest, before);
        memcpy(rest + V, (u8*)buffer + k, made - k);
        memcpy(first + done - V + shift, rest + shift, V - shift + (made - k));
      }
    }
    _mm_sfence();
    return;
  }
#endif
  for (u64 i = begin; i < end; i += N) body(i, least(N, end - i), out + i);
}

}  // namespace
