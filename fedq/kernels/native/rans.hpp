// The entropy coder of packed bits: interleaved rANS in the format of `_reference_rans.py`.
#pragma once
#include "rans_steps.hpp"

namespace {

// The code of n bytes: the ones of each block to `counts`, the states to `states`, and the words to the end of the n + 16
// words of `room`. Returns their number.
u64 rans_encode(const u8* in, u64 n, u64 lanes, u16* counts, u32* states, u8* room) {
  u8 *const end = room + 2 * (n + 16), *words = end;
  u32 x[64];
  for (u32& state : x) state = 65536;
  for (u64 b = (n + RANS_BLOCK - 1) / RANS_BLOCK; b--;) {
    u64 begin = b * RANS_BLOCK, size = least(RANS_BLOCK, n - begin), ones = capped(ones_in(in + begin, size));
    store(counts + b, (u16)ones);
    const Model model(ones, 8 * size);
    u64 whole = lanes == 64 ? begin + size / 64 * 64 : begin;
    words = encode_bytes(in, whole, begin + size, lanes, model, x, words);
    if (whole > begin) words = encode_steps(in, begin, whole, model, x, words);
  }
  memcpy(states, x, 4 * lanes);
  return (u64)(end - words) / 2;
}

// The n bytes that are coded at the beginning of `in`; returns the length of the code, 0 if no encoder writes it.
u64 rans_decode(const u8* in, u64 size, u64 lanes, u8* out, u64 n) {
  u64 blocks = (n + RANS_BLOCK - 1) / RANS_BLOCK, head = 2 * blocks + 4 * lanes;
  if (size < head) return 0;
  u32 x[64];
  memcpy(x, in + 2 * blocks, 4 * lanes);
  for (u64 l = 0; l < lanes; ++l)
    if (x[l] < 65536) return 0;
  const u8 *words = in + head, *beyond = in + size;
  for (u64 b = 0; b < blocks; ++b) {
    u64 begin = b * RANS_BLOCK, some = least(RANS_BLOCK, n - begin), ones = load<u16>(in + 2 * b), at = begin;
    if (ones > 8 * some) return 0;
    const Model model(ones, 8 * some);
    if (lanes == 64) words = decode_steps(out, &at, begin + some, model, x, words, beyond);
    words = decode_bytes(out, at, begin + some, lanes, model, x, words, beyond);
    if (!words || capped(ones_in(out + begin, some)) != ones) return 0;
  }
  for (u64 l = 0; l < lanes; ++l)
    if (x[l] != 65536) return 0;
  return (u64)(words - in);
}

}  // namespace
