// The steps of the entropy coder in vectors: 64 bytes, one for each of 64 lanes, at a time. The scalar loops of
// `rans_bytes.hpp` do the same; decoding stops where fewer words are left than a step may take.
#pragma once
#include "rans_bytes.hpp"

namespace {

#if defined(__AVX512VBMI__)
INLINE u8* encode_steps(const u8* in, u64 begin, u64 end, const Model& model, u32* states, u8* words) {
  const Look256 ones(RANKS.ones), within(RANKS.within);
  const __m512i frequency = _mm512_load_si512(model.frequency), start = _mm512_load_si512(model.start);
  const __m512 below = _mm512_load_ps(model.below);
  const __m512i top = _mm512_set1_epi32(65536);
  __m512i x[4];
  for (int g = 0; g < 4; ++g) x[g] = _mm512_loadu_si512(states + 16 * g);
  for (u64 i = end; i > begin; i -= 64) {
    __m512i bytes = _mm512_loadu_si512(in + i - 64);
    alignas(64) u8 k[64], w[64];
    _mm512_store_si512(k, ones(bytes));
    _mm512_store_si512(w, within(bytes));
#pragma GCC unroll 4
    for (int g = 3; g >= 0; --g) {
      __m512i at = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i*)(k + 16 * g)));
      __m512i nth = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i*)(w + 16 * g)));
      __m512i f = _mm512_permutexvar_epi32(at, frequency), from = _mm512_permutexvar_epi32(at, start);
      __mmask16 full = _mm512_cmpge_epu32_mask(x[g], _mm512_slli_epi32(f, 16));
      int shed = __builtin_popcount(full);  // the words of these lanes, in order, moved to the upper end and stored there
      __m512i high = _mm512_maskz_expand_epi32((__mmask16)(0xffff0000 >> shed), _mm512_maskz_compress_epi32(full, x[g]));
      _mm256_storeu_si256((__m256i*)(words - 32), _mm512_cvtepi32_epi16(high));
      words -= 2 * shed;
      __m512i rest = _mm512_mask_srli_epi32(x[g], full, x[g], 16);
      __m512i quotient = _mm512_cvttps_epu32(_mm512_mul_ps(_mm512_cvtepu32_ps(rest), _mm512_permutexvar_ps(at, below)));
      rest = _mm512_sub_epi32(rest, _mm512_mullo_epi32(quotient, f));
      __mmask16 more = _mm512_cmpge_epu32_mask(rest, f);  // the quotient is at most one too small
      from = _mm512_add_epi32(from, _mm512_madd_epi16(nth, f));  // nth > 0 only where f < 2^15
      x[g] = _mm512_add_epi32(_mm512_slli_epi32(quotient, 16), _mm512_add_epi32(rest, from));
      x[g] = _mm512_mask_add_epi32(x[g], more, x[g], _mm512_sub_epi32(top, f));
    }
  }
  for (int g = 0; g < 4; ++g) _mm512_storeu_si512(states + 16 * g, x[g]);
  return words;
}

INLINE const u8* decode_steps(u8* out, u64* begin, u64 end, const Model& model, u32* states, const u8* words,
                              const u8* beyond) {
  const Look256 byte(RANKS.byte);
  const __m512i frequency = _mm512_load_si512(model.frequency), start = _mm512_load_si512(model.start);
  const __m512i first = _mm512_cvtepu8_epi32(load<__m128i>(RANKS.first));
  const __m512 below = _mm512_load_ps(model.below);
  const __m512i low = _mm512_set1_epi32(0xffff), one = _mm512_set1_epi16(1);
  __m512i x[4], tops[8];
  for (int g = 0; g < 4; ++g) x[g] = _mm512_loadu_si512(states + 16 * g);
  for (int c = 0; c < 8; ++c) tops[c] = _mm512_set1_epi16((short)model.tops[c]);
  u64 i = *begin;
  for (; i + 64 <= end && beyond - words >= 128; i += 64) {
    __m512i k[2], rank[4];
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {  // the number of ones: how many parts end at or before the slot
      __m512i slot = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(x[2 * h])),
                                        _mm512_cvtepi32_epi16(x[2 * h + 1]), 1);
      k[h] = _mm512_setzero_si512();
#pragma GCC unroll 8
      for (int c = 0; c < 8; ++c) k[h] = _mm512_mask_add_epi16(k[h], _mm512_cmpge_epu16_mask(slot, tops[c]), k[h], one);
    }
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      __m512i at = _mm512_cvtepu16_epi32(g & 1 ? _mm512_extracti64x4_epi64(k[g / 2], 1) : _mm512_castsi512_si256(k[g / 2]));
      __m512i f = _mm512_permutexvar_epi32(at, frequency);
      __m512i rest = _mm512_sub_epi32(_mm512_and_si512(x[g], low), _mm512_permutexvar_epi32(at, start));
      __m512 share = _mm512_mul_ps(_mm512_cvtepi32_ps(rest), _mm512_permutexvar_ps(at, below));
      __m512i within = _mm512_cvttps_epi32(share);
      rest = _mm512_sub_epi32(rest, _mm512_madd_epi16(within, f));
      __mmask16 more = _mm512_cmpge_epu32_mask(rest, f);
      rest = _mm512_mask_sub_epi32(rest, more, rest, f);
      within = _mm512_mask_sub_epi32(within, more, within, _mm512_set1_epi32(-1));
      rank[g] = _mm512_add_epi32(within, _mm512_permutexvar_epi32(at, first));
      __m512i y = _mm512_add_epi32(_mm512_mullo_epi32(f, _mm512_srli_epi32(x[g], 16)), rest);
      __mmask16 few = _mm512_cmple_epu32_mask(y, low);
      __m512i more_words = _mm512_maskz_expand_epi32(few, _mm512_cvtepu16_epi32(load<__m256i>(words)));
      words += 2 * __builtin_popcount(few);
      x[g] = _mm512_mask_or_epi32(y, few, _mm512_slli_epi32(y, 16), more_words);
    }
    alignas(64) u8 ranks[64];
    for (int g = 0; g < 4; ++g) _mm_store_si128((__m128i*)(ranks + 16 * g), _mm512_cvtepi32_epi8(rank[g]));
    _mm512_storeu_si512(out + i, byte(_mm512_load_si512(ranks)));
  }
  *begin = i;
  for (int g = 0; g < 4; ++g) _mm512_storeu_si512(states + 16 * g, x[g]);
  return words;
}
#elif defined(__AVX2__)
// For each mask of eight lanes: its lanes at the upper end, in order; and for each lane how many before it are set.
struct Moves {
  u8 to_end[256][8], from_front[256][8];
  constexpr Moves() : to_end(), from_front() {
    for (int mask = 0; mask < 256; ++mask) {
      int n = 0;
      for (int l = 0; l < 8; ++l) from_front[mask][l] = (u8)n, n += mask >> l & 1;
      int at = 8 - n;
      for (int l = 0; l < 8; ++l)
        if (mask >> l & 1) to_end[mask][at++] = (u8)l;
    }
  }
};
alignas(64) constexpr Moves MOVES;

INLINE __m256i eight(const u8* bytes) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)bytes)); }

INLINE u8* encode_steps(const u8* in, u64 begin, u64 end, const Model& model, u32* states, u8* words) {
  alignas(64) u32 table[256];  // of each byte: where its part begins, and its frequency above
  for (int b = 0; b < 256; ++b) {
    u32 k = RANKS.ones[b], f = model.frequency[k];
    table[b] = f << 16 | (model.start[k] + RANKS.within[b] * f);
  }
  const __m256i low = _mm256_set1_epi32(0xffff), one = _mm256_set1_epi32(1);
  const __m256i halves = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4, 5, 8, 9, 12, 13,  //
                                          0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4, 5, 8, 9, 12, 13);
  const __m256 step = _mm256_set1_ps(65536), down = _mm256_set1_ps(1 - 1e-6f);
  for (u64 i = end; i > begin; i -= 64)
    for (int g = 7; g >= 0; --g) {
      __m256i x = _mm256_loadu_si256((const __m256i*)(states + 8 * g));
      __m256i entry = _mm256_i32gather_epi32((const int*)table, eight(in + i - 64 + 8 * g), 4);
      __m256i f = _mm256_srli_epi32(entry, 16), bound = _mm256_andnot_si256(low, entry);
      __m256i full = _mm256_cmpeq_epi32(_mm256_max_epu32(x, bound), x);
      u32 mask = (u32)_mm256_movemask_ps((__m256)full);
      __m256i shed = _mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(x, eight(MOVES.to_end[mask])), halves);
      _mm_storeu_si128((__m128i*)(words - 16), _mm256_castsi256_si128(_mm256_permute4x64_epi64(shed, 0x08)));
      words -= 2 * __builtin_popcount(mask);
      x = _mm256_blendv_epi8(x, _mm256_srli_epi32(x, 16), full);
      __m256 size = _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(x, 16)), step),
                                  _mm256_cvtepi32_ps(_mm256_and_si256(x, low)));
      __m256 share = _mm256_mul_ps(_mm256_div_ps(size, _mm256_cvtepi32_ps(f)), down);
      __m256i quotient = _mm256_cvttps_epi32(share), rest = _mm256_sub_epi32(x, _mm256_mullo_epi32(quotient, f));
      __m256i more = _mm256_cmpgt_epi32(rest, _mm256_sub_epi32(f, one));  // the quotient is at most one too small
      quotient = _mm256_slli_epi32(_mm256_sub_epi32(quotient, more), 16);
      rest = _mm256_add_epi32(_mm256_sub_epi32(rest, _mm256_and_si256(more, f)), _mm256_and_si256(entry, low));
      _mm256_storeu_si256((__m256i*)(states + 8 * g), _mm256_add_epi32(quotient, rest));
    }
  return words;
}

// Entries of a table of sixteen 16-bit numbers, given as their low and high bytes; `at` holds each index in both bytes.
struct Look16 {
  __m256i low, high;
  INLINE explicit Look16(const u32 table[16]) {
    alignas(16) u8 halves[2][16];
    for (int k = 0; k < 16; ++k) halves[0][k] = (u8)table[k], halves[1][k] = (u8)(table[k] >> 8);
    low = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i*)halves[0]));
    high = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i*)halves[1]));
  }
  INLINE __m256i operator()(__m256i at) const {
    return _mm256_blendv_epi8(_mm256_shuffle_epi8(low, at), _mm256_shuffle_epi8(high, at), _mm256_set1_epi16((short)0xff00));
  }
};

INLINE const u8* decode_steps(u8* out, u64* begin, u64 end, const Model& model, u32* states, const u8* words,
                              const u8* beyond) {
  const Look16 frequency(model.frequency), start(model.start);
  const __m256i first = _mm256_broadcastsi128_si256(load<__m128i>(RANKS.first)), zero = _mm256_setzero_si256();
  const __m256i low = _mm256_set1_epi32(0xffff), sign = _mm256_set1_epi16((short)0x8000);
  __m256i tops[8];
  for (int c = 0; c < 8; ++c) tops[c] = _mm256_set1_epi16((short)((model.tops[c] - 1) ^ 0x8000));
  u64 i = *begin;
  for (; i + 64 <= end && beyond - words >= 128; i += 64)
    for (u64 h = 0; h < 4; ++h) {
      u32* state = states + 16 * h;
      __m256i x[2] = {_mm256_loadu_si256((const __m256i*)state), _mm256_loadu_si256((const __m256i*)(state + 8))};
      __m256i slot = _mm256_packus_epi32(_mm256_and_si256(x[0], low), _mm256_and_si256(x[1], low));  // as unpack wants it
      __m256i k = zero, flipped = _mm256_xor_si256(slot, sign);
      for (int c = 0; c < 8; ++c) k = _mm256_sub_epi16(k, _mm256_cmpgt_epi16(flipped, tops[c]));
      __m256i before = _mm256_shuffle_epi8(first, _mm256_or_si256(k, sign)), twice = _mm256_or_si256(k, _mm256_slli_epi16(k, 8));
      __m256i fs = frequency(twice), rests = _mm256_sub_epi16(slot, start(twice)), rank[2];
#pragma GCC unroll 2
      for (int g = 0; g < 2; ++g) {
        __m256i f = g ? _mm256_unpackhi_epi16(fs, zero) : _mm256_unpacklo_epi16(fs, zero);
        __m256i rest = g ? _mm256_unpackhi_epi16(rests, zero) : _mm256_unpacklo_epi16(rests, zero);
        __m256i within = _mm256_cvttps_epi32(_mm256_div_ps(_mm256_cvtepi32_ps(rest), _mm256_cvtepi32_ps(f)));  // exact
        rank[g] = within;
        rest = _mm256_sub_epi32(rest, _mm256_madd_epi16(within, f));  // within > 0 only where f < 2^15
        __m256i y = _mm256_add_epi32(_mm256_mullo_epi32(f, _mm256_srli_epi32(x[g], 16)), rest);
        __m256i few = _mm256_cmpeq_epi32(_mm256_srli_epi32(y, 16), zero);
        u32 mask = (u32)_mm256_movemask_ps((__m256)few);
        __m256i next = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)words));
        next = _mm256_permutevar8x32_epi32(next, eight(MOVES.from_front[mask]));
        words += 2 * __builtin_popcount(mask);
        y = _mm256_blendv_epi8(y, _mm256_or_si256(_mm256_slli_epi32(y, 16), next), few);
        _mm256_storeu_si256((__m256i*)(state + 8 * g), y);
      }
      alignas(32) u16 ranks[16];
      __m256i both = _mm256_add_epi16(_mm256_packus_epi32(rank[0], rank[1]), before);
      _mm256_store_si256((__m256i*)ranks, _mm256_permute4x64_epi64(both, 0xd8));
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) out[i + 16 * h + (u64)j] = RANKS.byte[ranks[j]];
    }
  *begin = i;
  return words;
}

#else
INLINE u8* encode_steps(const u8* in, u64 begin, u64 end, const Model& model, u32* states, u8* words) {
  return encode_bytes(in, begin, end, 64, model, states, words);
}
INLINE const u8* decode_steps(u8*, u64*, u64, const Model&, u32*, const u8* words, const u8*) { return words; }
#endif

}  // namespace
