// The entropy coder's model of a block, bytes whose frequency depends on their number of ones only, and its scalar loops.
#pragma once
#include "simd.hpp"

namespace {

constexpr u64 RANS_BLOCK = 8192;  // bytes that share a density

// Bytes in order of their ones, then of their value; `within` counts from the first byte of as many ones.
struct Ranks {
  u8 byte[256], ones[256], within[256], first[16];
  constexpr Ranks() : byte(), ones(), within(), first() {
    int rank = 0;
    for (int k = 0; k < 9; ++k) {
      first[k] = (u8)rank;
      for (int b = 0; b < 256; ++b) {
        int n = 0;
        for (int i = 0; i < 8; ++i) n += b >> i & 1;
        if (n != k) continue;
        ones[b] = (u8)k, within[b] = (u8)(rank - first[k]), byte[rank++] = (u8)b;
      }
    }
  }
};
alignas(64) constexpr Ranks RANKS;
constexpr u32 CHOOSE[9] = {1, 8, 28, 56, 70, 56, 28, 8, 1};

// What a byte of k ones takes of [0, 65536): `frequency` each, from `start` on; with reciprocals for the divisions. The
// tables are made up to vectors.
struct Model {
  alignas(64) u32 frequency[16] = {}, start[16] = {};
  alignas(64) float below[16] = {};  // a little less than 1 / frequency
  u64 inverse[9];                    // 2^32 / frequency, rounded up
  u32 tops[9];                       // where the next k begins
  u8 least_ones[256];                // of the slots that begin with these 8 bits

  Model(u64 ones, u64 bits) {
    u64 p = 65536 * ones / bits, q = 65536 - p;
    u32 sum = 0;
    for (int k = 0; k < 9; ++k) {
      u64 t = (u64)1 << 32;
      for (int j = 0; j < 8; ++j) t = t * (j < k ? p : q) >> 16;
      frequency[k] = t >> 16 ? (u32)(t >> 16) : 1;
      sum += CHOOSE[k] * frequency[k];
    }
    frequency[p < 32768 ? 0 : 8] += 65536 - sum;
    u32 at = 0;
    for (int k = 0; k < 9; ++k) {
      start[k] = at;
      tops[k] = at += CHOOSE[k] * frequency[k];
      below[k] = (float)((1 - 1e-6) / frequency[k]);
      inverse[k] = (((u64)1 << 32) + frequency[k] - 1) / frequency[k];
    }
    for (u32 slot = 0, k = 0; slot < 256; ++slot) {
      while (slot << 8 >= tops[k]) ++k;
      least_ones[slot] = (u8)k;
    }
  }
};

INLINE u64 ones_in(const u8* in, u64 n) {
  u64 ones = 0, i = 0;
  for (; i + 8 <= n; i += 8) ones += (u64)__builtin_popcountll(load<u64>(in + i));
  for (; i < n; ++i) ones += RANKS.ones[in[i]];
  return ones;
}
INLINE u64 capped(u64 ones) { return least(ones, (u64)65535); }

// Codes the bytes [begin, end), last first; their words go in front of `words`, whose new beginning is returned.
INLINE u8* encode_bytes(const u8* in, u64 begin, u64 end, u64 lanes, const Model& model, u32* states, u8* words) {
  for (u64 i = end; i-- > begin;) {
    u32 *state = states + (i & (lanes - 1)), x = *state, k = RANKS.ones[in[i]], f = model.frequency[k];
    u32 full = x >= (u64)f << 16;
    store(words - 2, (u16)x);
    words -= 2 * full;
    x >>= 16 * full;
    u32 quotient = (u32)((float)x * model.below[k]), rest = x - quotient * f, more = rest >= f;  // at most one too small
    *state = ((quotient + more) << 16) + rest - (f & -more) + model.start[k] + RANKS.within[in[i]] * f;
  }
  return words;
}

// The reverse, first byte first. Returns the word after the last one that was taken; null if that is beyond `beyond`.
INLINE const u8* decode_bytes(u8* out, u64 begin, u64 end, u64 lanes, const Model& model, u32* states, const u8* words,
                              const u8* beyond) {
  for (u64 i = begin; i < end; ++i) {
    u32 *state = states + (i & (lanes - 1)), x = *state, slot = x & 0xffff, k = model.least_ones[slot >> 8];
    while (slot >= model.tops[k]) ++k;
    u32 f = model.frequency[k], rest = slot - model.start[k], within = (u32)(rest * model.inverse[k] >> 32);
    out[i] = RANKS.byte[RANKS.first[k] + within];
    x = f * (x >> 16) + rest - within * f;
    u32 few = x < 65536;
    if (beyond - words < 2) {
      if (few) return 0;
    } else {
      x = x << 16 * few | (load<u16>(words) & -few);
      words += 2 * few;
    }
    *state = x;
  }
  return words;
}

}  // namespace
