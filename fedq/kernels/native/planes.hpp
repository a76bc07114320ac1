// Convolutions, pools and norms of planes (`_reference_planes.py` has the arithmetic).
//
// The examples of a batch are taken 32 at a time. Such a slice has examples last, [n, B]: a row of places, with the
// examples of each, is one vector that all of a kernel's weights meet at some offset, and a convolution is a product of
// rows that stand apart. Where sums run over such rows, they are taken in 16 lanes whatever the vectors hold. Of n values
// of each example, those of a slice stand n times its first example from the beginning.
#pragma once
#include "dense.hpp"

namespace {

constexpr u64 SLICE = 32;

// f(first example, examples) of each slice.
template <class Body>
INLINE void each_slice(u64 B, Body f) {
  for (u64 first = 0; first < B; first += SLICE) f(first, least(SLICE, B - first));
}

// Where the parts of a convolution stand: what each step of its sums takes, forward and back, and padded planes.
struct Geometry {
  u64 maps, high, wide;      // planes that it gives
  i64* inputs;               // [channels * size * size]: places of inputs
  i64 *slopes, *weights;     // [size * size * maps]: places of slopes and weights, back
  float *around, *around_g;  // inputs and slopes of a slice with zeros around; null where none are needed
};

struct Weights {  // element [m, k] stands at m * row + column[k]
  const float* at;
  u64 row;
  const i64* column;
  INLINE const float* operator()(u64 m, u64 k) const { return at + m * row + column[k]; }
};
struct Apart {  // row k begins at place row[k], of B examples each
  const float* at;
  const i64* row;
  u64 B;
  INLINE const float* operator()(u64 k) const { return at + row[k] * (i64)B; }
};

// Planes [channels, high, wide] with `by` zeros about them.
void pad(const float* in, u64 channels, u64 high, u64 wide, u64 by, u64 B, float* out) {
  u64 side = by * B, row = (wide + 2 * by) * B, rim = by * row;
  for (u64 c = 0; c < channels; ++c, out += rim) {
    memset(out, 0, 4 * rim), out += rim;
    for (u64 y = 0; y < high; ++y, in += wide * B, out += row) {
      memset(out, 0, 4 * side), memset(out + row - side, 0, 4 * side);
      memcpy(out + side, in, 4 * wide * B);
    }
    memset(out, 0, 4 * rim);
  }
}

// What a convolution takes of a slice.
const float* surrounded(const Layer& layer, const Geometry& o, u64 B, const float* x) {
  if (!layer.padding) return x;
  pad(x, (u64)layer.channels, (u64)layer.height, (u64)layer.width, (u64)layer.padding, B, o.around);
  return o.around;
}

void convolution(const Work& k, const Layer& layer, const Geometry& o, const float* w, const float* x, float* y) {
  u64 depth = (u64)(layer.channels * layer.size * layer.size), wide = (u64)(layer.width + 2 * layer.padding);
  Matrix weights = {k.part(w, layer.weight), depth, 1};
  each_slice(k.B, [&](u64 first, u64 B) INLINE_LAMBDA {
    Apart rows = {surrounded(layer, o, B, x + first * (u64)layer.inputs), o.inputs, B};
    float* out = y + first * (u64)layer.outputs;
    for (u64 i = 0, n = o.wide * B; i < o.high; ++i, rows.at += wide * B)
      product(weights, rows, k.part(w, layer.bias), out + i * n, o.high * n, o.maps, n, depth);
  });
}

// The first n of W lanes, or all; the others are zero.
INLINE F lanes_of(const float* p) { return loadf(p); }
INLINE F lanes_of(const float* p, u64 n) {
#if defined(__AVX512F__)
  return (F)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
  float first[W] = {};
  for (u64 i = 0; i < n; ++i) first[i] = load<float>(p + i);
  return loadf(first);
#endif
}

struct Lanes16 {
  F part[16 / W];
};

INLINE float sum16(const Lanes16& x) {
  Lanes<8>::V eight[2];
  memcpy(eight, &x, 64);
  eight[0] += eight[1];
  Lanes<4>::V four[2];
  memcpy(four, eight, 32);
  four[0] += four[1];
  return (four[0][0] + four[0][2]) + (four[0][1] + four[0][3]);
}

// add(row, column, lanes if not W) for lanes `first` ... of every 16 columns of [high, wide] values.
template <class Body>
INLINE void each_16(u64 high, u64 wide, u64 first, Body add) {
  for (u64 i = 0; i < high; ++i) {
    u64 j = first;
    for (; j + W <= wide; j += 16) add(i, j);
    if (j < wide) add(i, j, wide - j);
  }
}

// The sum of f(place, lanes if not W) over [high, wide] places, in 16 lanes.
template <class Body>
INLINE float sum_of(u64 high, u64 wide, Body f) {
  Lanes16 sum = {};
  for (u64 part = 0; part < 16 / W; ++part)
    each_16(high, wide, part * W, [&](u64 i, u64 j, auto... n) INLINE_LAMBDA { sum.part[part] += f(i * wide + j, n...); });
  return sum16(sum);
}

// What is summed for the gradient of a convolution's weights: maps' slopes times inputs at some offsets, over [high, wide].
struct Pairs {
  const float *g, *x;
  const i64* inputs;
  u64 B, g_map, x_row, high, wide, count;
};
constexpr int GROUP = 30;         // inputs that are summed over some rows, and then over the next
constexpr u64 NEAREST = 1 << 11;  // values in those rows of a map, so that all of them stay in the nearest cache

// M maps' and T inputs' sums over the rows from `first` on, added to `sum`.
template <int M, int T>
INLINE void add_sums(const Pairs& o, const i64* inputs, u64 first, u64 rows, Lanes16* sum) {
  for (u64 part = 0; part < 16 / W; ++part) {
    F s[M][T];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) s[m][t] = sum[t * M + m].part[part];
    each_16(rows, o.wide, part * W, [&](u64 i, u64 j, auto... n) INLINE_LAMBDA {
      const float *g = o.g + (first + i) * o.wide + j, *x = o.x + (first + i) * o.x_row + j;
      F gm[M];
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) gm[m] = lanes_of(g + (u64)m * o.g_map, n...);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        F xt = lanes_of(x + inputs[t] * (i64)o.B, n...);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) s[m][t] += gm[m] * xt;
      }
    });
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) sum[t * M + m].part[part] = s[m][t];
  }
}

// The same for `count` inputs, T at a time and the rest by fewer.
template <int M, int T>
INLINE void add_sums_of(const Pairs& o, const i64* inputs, u64 count, u64 first, u64 rows, Lanes16* sum) {
  for (; count >= T; count -= T, inputs += T, sum += T * M) add_sums<M, T>(o, inputs, first, rows, sum);
  if constexpr (T > 1) add_sums_of<M, T / 2>(o, inputs, count, first, rows, sum);
}

// All sums [maps, count], M maps at a time and the rest by fewer.
template <int M, int T>
void all_sums(Pairs o, u64 maps, float* out) {
  u64 block = NEAREST / o.wide + 1;
  for (; maps >= M; maps -= M, o.g += M * o.g_map, out += M * o.count)
    for (u64 k = 0; k < o.count; k += GROUP) {
      Lanes16 sum[GROUP * M] = {};
      u64 count = least(GROUP, o.count - k);
      for (u64 i = 0; i < o.high; i += block) add_sums_of<M, T>(o, o.inputs + k, count, i, least(block, o.high - i), sum);
      for (u64 t = 0; t < count; ++t)
        for (u64 m = 0; m < M; ++m) out[m * o.count + k + t] = sum16(sum[t * M + m]);
    }
  if constexpr (M > 1) all_sums<M / 2, T>(o, maps, out);
}

// What a slice's slopes make of the gradient of weights and biases, where these are wanted.
void convolution_sums(const Layer& layer, const Geometry& o, u64 B, const float* x, const float* g, float* weight,
                      float* bias) {
  constexpr int M = W == 16 ? 4 : 3, T = W == 16 ? 5 : 4;
  u64 depth = (u64)(layer.channels * layer.size * layer.size), n = o.wide * B, row = (u64)(layer.width + 2 * layer.padding) * B;
  if (weight) all_sums<M, T>({g, surrounded(layer, o, B, x), o.inputs, B, o.high * n, row, o.high, n, depth}, o.maps, weight);
  for (u64 m = 0; bias && m < o.maps; ++m, g += o.high * n)
    bias[m] = sum_of(o.high, n, [=](u64 at, auto... lanes) INLINE_LAMBDA { return lanes_of(g + at, lanes...); });
}

// What a slice's slopes are for its inputs.
void convolution_through(const Layer& layer, const Geometry& o, u64 B, Weights weights, const float* g, float* into) {
  u64 size = (u64)layer.size, q = size - 1 - (u64)layer.padding, high = (u64)layer.height, n = (u64)layer.width * B;
  if (q) pad(g, o.maps, o.high, o.wide, q, B, o.around_g), g = o.around_g;
  for (u64 i = 0, steps = size * o.maps; i < high; ++i) {  // steps: those of a row of the kernel
    u64 first = i < q ? q - i : 0, end = least(size, i < q + o.high ? q + o.high - i : 0);
    weights.column = o.weights + first * steps;
    Apart rows = {g + i * (o.wide + 2 * q) * B, o.slopes + first * steps, B};
    product(weights, rows, 0, into + i * n, high * n, (u64)layer.channels, n, first < end ? (end - first) * steps : 0);
  }
}

void convolution_back(const Work& k, const Layer& layer, const Geometry& o, const float* w, const float* x, float* slopes,
                      bool inner) {
  u64 area = (u64)(layer.size * layer.size), count = o.maps * (u64)layer.channels * area;
  each_slice(k.B, [&](u64 first, u64 B) INLINE_LAMBDA {
    const float* g = k.slope + first * (u64)layer.outputs;
    float* weight = layer.weight < 0 ? 0 : first ? k.partial : slopes + layer.weight;
    float* bias = layer.bias < 0 ? 0 : first ? k.partial + count : slopes + layer.bias;
    convolution_sums(layer, o, B, x + first * (u64)layer.inputs, g, weight, bias);
    for (u64 i = 0; first && weight && i < count; ++i) slopes[(u64)layer.weight + i] += weight[i];
    for (u64 i = 0; first && bias && i < o.maps; ++i) slopes[(u64)layer.bias + i] += bias[i];
    Weights weights = {k.part(w, layer.weight), area, 0};
    if (inner) convolution_through(layer, o, B, weights, g, k.other + first * (u64)layer.inputs);
  });
}

// f(lanes, first of size x size values, where what they give stands) of all, for as many examples as there are lanes.
template <class Body>
INLINE void each_pool(const Layer& layer, u64 B, Body f) {
  u64 size = (u64)layer.size, high = (u64)layer.height, wide = (u64)layer.width;
  for (u64 c = 0, to = 0; c < (u64)layer.channels; ++c)
    for (u64 i = 0; i < high / size; ++i)
      for (u64 j = 0; j < wide / size; ++j) {
        u64 at = ((c * high + i * size) * wide + j * size) * B, end = to + B;
        for (; to + W <= end; to += W, at += W) f(F{}, at, to);
        if (W > 8 && to + 8 <= end) f(Lanes<8>::V{}, at, to), to += 8, at += 8;
        if (W > 4 && to + 4 <= end) f(Lanes<4>::V{}, at, to), to += 4, at += 4;
        for (; to < end; ++to, ++at) f(0.0f, at, to);
      }
}

void pool(const Layer& layer, u64 batch, const float* from, float* to) {
  u64 size = (u64)layer.size;
  each_slice(batch, [=](u64 first, u64 B) INLINE_LAMBDA {
    const float* x = from + first * (u64)layer.inputs;
    float* y = to + first * (u64)layer.outputs;
    u64 row = (u64)layer.width * B;
    each_pool(layer, B, [=](auto v, u64 at, u64 place) INLINE_LAMBDA {
      using V = decltype(v);
      V top = load<V>(x + at);
      for (u64 i = 0; i < size; ++i)
        for (u64 j = 0; j < size; ++j) {
          V one = load<V>(x + at + i * row + j * B);
          top = one > top ? one : top, top = one != one ? one : top;
        }
      store(y + place, top);
    });
  });
}

void pool_back(const Work& k, const Layer& layer, const float* from, const float* given) {
  u64 size = (u64)layer.size;
  if ((u64)layer.height % size || (u64)layer.width % size) memset(k.other, 0, 4 * (u64)layer.inputs * k.B);
  each_slice(k.B, [&](u64 first, u64 B) INLINE_LAMBDA {
    const float *x = from + first * (u64)layer.inputs, *y = given + first * (u64)layer.outputs;
    const float* g = k.slope + first * (u64)layer.outputs;
    float* into = k.other + first * (u64)layer.inputs;
    u64 row = (u64)layer.width * B;
    each_pool(layer, B, [=](auto v, u64 at, u64 place) INLINE_LAMBDA {
      using V = decltype(v);
      V top = load<V>(y + place), open = load<V>(g + place), none = {};
      for (u64 i = 0; i < size; ++i)
        for (u64 j = 0; j < size; ++j) {
          auto takes = load<V>(x + at + i * row + j * B) == top;
          store(into + at + i * row + j * B, takes ? open : none);
          open = takes ? none : open;
        }
    });
  });
}

// The values of a channel, which every slice has a part of.
struct Channel {
  const Layer& layer;
  u64 batch, c;

  // f(place) of each.
  template <class Body>
  INLINE void each_value(Body f) const {
    u64 area = (u64)(layer.height * layer.width);
    each_slice(batch, [&](u64 first, u64 B) INLINE_LAMBDA {
      u64 at = first * (u64)layer.inputs + c * area * B;
      for (u64 i = at; i < at + area * B; ++i) f(i);
    });
  }
  // The sum of f(place, lanes if not W), slice after slice.
  template <class Body>
  INLINE float sum(Body f) const {
    float total = 0;
    each_slice(batch, [&](u64 first, u64 B) INLINE_LAMBDA {
      u64 at = first * (u64)layer.inputs + c * (u64)(layer.height * layer.width) * B;
      auto moved = [=](u64 i, auto... lanes) INLINE_LAMBDA { return f(at + i, lanes...); };
      float part = sum_of((u64)layer.height, (u64)layer.width * B, moved);
      total = first ? total + part : part;
    });
    return total;
  }
};

void norm_planes(const Work& k, const Layer& layer, const float* w, const float* x, float* y) {
  u64 n = (u64)layer.inputs, C = (u64)layer.channels;
  float *unit = y + k.B * n, *scale = unit + k.B * n, share = 1.0f / (float)(k.B * (n / C));
  const float *gain = k.part(w, layer.weight), *shift = k.part(w, layer.bias), epsilon = k.fixed[-1 - layer.epsilon];
  for (u64 c = 0; c < C; ++c) {
    Channel own = {layer, k.B, c};
    float mean = share * own.sum([=](u64 at, auto... lanes) INLINE_LAMBDA { return lanes_of(x + at, lanes...); });
    own.each_value([=](u64 i) INLINE_LAMBDA { unit[i] = x[i] - mean; });
    float spread = share * own.sum([=](u64 at, auto... lanes) INLINE_LAMBDA {
      F centred = lanes_of(unit + at, lanes...);
      return centred * centred;
    });
    float by = scale[c] = 1.0f / __builtin_sqrtf(spread + epsilon);
    own.each_value([=](u64 i) INLINE_LAMBDA { y[i] = unit[i] *= by; });
    if (!gain) continue;
    float times = load<float>(gain + c), plus = load<float>(shift + c);
    own.each_value([=](u64 i) INLINE_LAMBDA { y[i] = y[i] * times + plus; });
  }
}

void norm_planes_back(const Work& k, const Layer& layer, const float* w, const float* y, float* slopes) {
  u64 n = (u64)layer.inputs, C = (u64)layer.channels;
  const float *unit = y + k.B * n, *scale = unit + k.B * n, *gain = k.part(w, layer.weight);
  float *g = k.slope, share = 1.0f / (float)(k.B * (n / C));
  for (u64 c = 0; c < C; ++c) {
    Channel own = {layer, k.B, c};
    auto sum = [=]() INLINE_LAMBDA {
      return own.sum([=](u64 at, auto... lanes) INLINE_LAMBDA { return lanes_of(g + at, lanes...); });
    };
    auto along = [=]() INLINE_LAMBDA {
      return own.sum([=](u64 at, auto... lanes) INLINE_LAMBDA {
        return lanes_of(g + at, lanes...) * lanes_of(unit + at, lanes...);
      });
    };
    if (layer.weight >= 0) slopes[(u64)layer.weight + c] = along();
    if (layer.bias >= 0) slopes[(u64)layer.bias + c] = sum();
    float times = gain ? load<float>(gain + c) : 0, by = scale[c];
    if (gain) own.each_value([=](u64 i) INLINE_LAMBDA { g[i] *= times; });
    float mean = share * sum(), slant = share * along();
    own.each_value([=](u64 i) INLINE_LAMBDA { g[i] = by * ((g[i] - mean) - unit[i] * slant); });
  }
}

}  // namespace
