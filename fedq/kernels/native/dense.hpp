// Dense layers forward and back, and the loss, of one client (`_reference_gradient.py` has the arithmetic).
//
// Every product is c[m, j] = start[m] + sum over k, in order, of a[m, k] b[k, j]: lanes hold neighbouring j and never
// meet, so the bits do not depend on their number. Forward, j runs over examples, which takes a transposed copy of what
// a layer takes and of what it gives; backward, j runs over the layer's inputs, as everything is stored.
#pragma once
#include "simd.hpp"

namespace {

struct Layer {  // a row of `Chain.layers`
  i64 kind, inputs, outputs, weight, bias, epsilon, channels, height, width, size, padding;
};
enum { LINEAR, RELU, NORM, CONVOLUTION, POOL };
constexpr i64 ABSENT = INT64_MIN;

template <int L>
struct Lanes {
  typedef float V __attribute__((vector_size(4 * L)));
};
template <>
struct Lanes<1> {
  typedef float V;
};

struct Matrix {  // element [m, k] stands at m * row + k * column
  const float* at;
  u64 row, column;
  INLINE const float* operator()(u64 m, u64 k) const { return at + m * row + k * column; }
};
struct Rows {  // where the columns of row k begin
  const float* at;
  u64 row;
  INLINE const float* operator()(u64 k) const { return at + k * row; }
};

// M rows and J vectors of L columns of the product.
template <int L, int M, int J, class A, class B>
INLINE void tile(A a, B b, const float* start, float* c, u64 c_row, u64 depth) {
  using V = typename Lanes<L>::V;
  V sum[M][J];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) sum[m][j] = (start ? load<float>(start + m) : 0.0f) - V{};
  for (u64 k = 0; k < depth; ++k) {
    V row[J];
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) row[j] = load<V>(b(k) + L * j);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) sum[m][j] += load<float>(a((u64)m, k)) * row[j];
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) store(c + (u64)m * c_row + L * j, sum[m][j]);
}

// All rows of a strip of columns, M at a time, and the rest by fewer.
template <int L, int M, int J, class A, class B>
INLINE void strip(A a, B b, const float* start, float* c, u64 c_row, u64 rows, u64 depth) {
  for (; rows >= M; rows -= M) {
    tile<L, M, J>(a, b, start, c, c_row, depth);
    a.at += M * a.row, c += M * c_row;
    if (start) start += M;
  }
  if constexpr (M > 1) strip<L, M == 8 ? 6 : M == 6 ? 4 : M / 2, J>(a, b, start, c, c_row, rows, depth);
}

template <class A, class B>
void product(A a, B b, const float* start, float* c, u64 c_row, u64 rows, u64 columns, u64 depth) {
  u64 j = 0;
  auto next = [&](u64 n) INLINE_LAMBDA { j += n, b.at += n, c += n; };
#if defined(__AVX512F__)
  for (; j + 64 <= columns; next(64)) strip<16, 4, 4>(a, b, start, c, c_row, rows, depth);
  for (; j + 32 <= columns; next(32)) strip<16, 8, 2>(a, b, start, c, c_row, rows, depth);
#else
  for (; j + 2 * W <= columns; next(2 * W)) strip<W, 4, 2>(a, b, start, c, c_row, rows, depth);
#endif
  for (; j + W <= columns; next(W)) strip<W, 8, 1>(a, b, start, c, c_row, rows, depth);
  if (W > 8 && j + 8 <= columns) strip<8, 8, 1>(a, b, start, c, c_row, rows, depth), next(8);
  if (W > 4 && j + 4 <= columns) strip<4, 8, 1>(a, b, start, c, c_row, rows, depth), next(4);
  for (; j < columns; next(1)) strip<1, 8, 1>(a, b, start, c, c_row, rows, depth);
}

// out[j, i] = in[i, j]
void transpose(const float* in, u64 in_row, u64 rows, u64 columns, float* out, u64 out_row) {
  u64 i = 0;
#if defined(__SSE2__)
  for (; i + 4 <= rows; i += 4) {
    u64 j = 0;
    for (; j + 4 <= columns; j += 4) {
      __m128 r[4];
      for (u64 k = 0; k < 4; ++k) r[k] = _mm_loadu_ps(in + (i + k) * in_row + j);
      _MM_TRANSPOSE4_PS(r[0], r[1], r[2], r[3]);
      for (u64 k = 0; k < 4; ++k) _mm_storeu_ps(out + (j + k) * out_row + i, r[k]);
    }
    for (; j < columns; ++j)
      for (u64 k = i; k < i + 4; ++k) out[j * out_row + k] = load<float>(in + k * in_row + j);
  }
#endif
  for (; i < rows; ++i)
    for (u64 j = 0; j < columns; ++j) out[j * out_row + i] = load<float>(in + i * in_row + j);
}

// e^x for x <= 0, as specified; 0 below -87, NaN for NaN.
INLINE float exponential(float x) {
  float d = x < -87.0f ? -87.0f : x;
  float shifted = d * 1.44269504f + 12582912.0f;
  float n = shifted - 12582912.0f;
  float r = (d - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1 / 5040.0f;
  p = p * r + 1 / 720.0f;
  p = p * r + 1 / 120.0f;
  p = p * r + 1 / 24.0f;
  p = p * r + 1 / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  u32 power = (load<u32>(&shifted) + 127u) << 23;
  float y = p * load<float>(&power);
  return x < -87.0f ? 0.0f : y;
}

// The natural logarithm of x >= 1, as specified; NaN for NaN.
INLINE float logarithm(float x) {
  u32 bits = load<u32>(&x), power = (bits - 0x3f3504f3u) >> 23;
  bits -= power << 23;
  float m = load<float>(&bits), e = (float)(i32)power;
  float f = (m - 1.0f) / (m + 1.0f), t = f * f;
  float q = 1 / 11.0f;
  q = q * t + 1 / 9.0f;
  q = q * t + 1 / 7.0f;
  q = q * t + 1 / 5.0f;
  q = q * t + 1 / 3.0f;
  float y = e * 0.693359375f + (e * -2.12194440e-4f + 2.0f * (f + f * (t * q)));
  return x == x ? y : x;
}

struct Geometry;

// What all clients share, and the room in which one after the other is worked on. [B, n] stand row by row, of planes in
// slices (`planes.hpp`).
struct Work {
  const Layer* layers;
  const float* fixed;
  u64 count, planes, first, classes;  // planes: layers of those, which come first; first: where trained weights begin
  u64 B, padded;                      // padded: B in whole fours
  float *turned, *given;              // [n, padded]: what a layer takes and gives, examples last; or sums [n]
  float *slope, *other;               // [B, n]
  float *entered, *left;              // examples as planes; the last planes as [B, n]
  float* partial;                     // what a slice adds to the gradient of a convolution
  float** value;  // what each layer gave; behind that of a norm stand its normalised input and scales [n]
  Geometry* geometry;

  const float* part(const float* w, i64 place) const {
    return place == ABSENT ? 0 : place < 0 ? fixed + (-1 - place) : w + place;
  }
};

// f(i, j) for every element i of [B, n] and its column j, row after row.
template <class Body>
INLINE void each(u64 B, u64 n, Body f) {
  for (u64 b = 0; b < B; ++b)
    for (u64 j = 0; j < n; ++j) f(b * n + j, j);
}

void linear(const Work& k, const Layer& layer, const float* w, const float* x, float* y) {
  u64 n = (u64)layer.inputs, m = (u64)layer.outputs;
  transpose(x, n, k.B, n, k.turned, k.padded);
  Matrix rows = {k.part(w, layer.weight), n, 1};
  product(rows, Rows{k.turned, k.padded}, k.part(w, layer.bias), k.given, k.padded, m, k.padded, n);
  transpose(k.given, k.padded, m, k.B, y, m);
}

void linear_back(const Work& k, const Layer& layer, const float* w, const float* x, float* slopes, bool inner) {
  u64 n = (u64)layer.inputs, m = (u64)layer.outputs;
  const float* g = k.slope;
  if (layer.weight >= 0) product(Matrix{g, 1, m}, Rows{x, n}, 0, slopes + layer.weight, n, m, n, k.B);
  if (layer.bias >= 0) {
    float* sums = slopes + layer.bias;
    memset(sums, 0, 4 * m);
    each(k.B, m, [=](u64 i, u64 j) INLINE_LAMBDA { sums[j] += g[i]; });
  }
  if (inner) product(Matrix{g, m, 1}, Rows{k.part(w, layer.weight), n}, 0, k.other, n, k.B, n, m);
}

void norm(const Work& k, const Layer& layer, const float* w, const float* x, float* y) {
  u64 n = (u64)layer.outputs;
  float *unit = y + k.B * n, *scale = unit + k.B * n, *mean = k.given, share = 1.0f / (float)k.B;
  const float *gain = k.part(w, layer.weight), *shift = k.part(w, layer.bias), epsilon = k.fixed[-1 - layer.epsilon];
  memset(mean, 0, 4 * n), memset(scale, 0, 4 * n);
  each(k.B, n, [=](u64 i, u64 j) INLINE_LAMBDA { mean[j] += load<float>(x + i); });
  for (u64 j = 0; j < n; ++j) mean[j] *= share;
  each(k.B, n, [=](u64 i, u64 j) INLINE_LAMBDA {
    float centred = unit[i] = load<float>(x + i) - mean[j];
    scale[j] += centred * centred;
  });
  for (u64 j = 0; j < n; ++j) scale[j] = 1.0f / __builtin_sqrtf(scale[j] * share + epsilon);
  each(k.B, n, [=](u64 i, u64 j) INLINE_LAMBDA { y[i] = unit[i] *= scale[j]; });
  if (gain) each(k.B, n, [=](u64 i, u64 j) INLINE_LAMBDA { y[i] = y[i] * load<float>(gain + j) + load<float>(shift + j); });
}

void norm_back(const Work& k, const Layer& layer, const float* w, const float* y, float* slopes) {
  u64 n = (u64)layer.outputs;
  const float *unit = y + k.B * n, *scale = unit + k.B * n, *gain = k.part(w, layer.weight);
  float *g = k.slope, *sum = k.given, *along = k.turned, share = 1.0f / (float)k.B;
  auto sums = [=]() INLINE_LAMBDA {
    memset(sum, 0, 4 * n), memset(along, 0, 4 * n);
    each(k.B, n, [=](u64 i, u64 j) INLINE_LAMBDA { sum[j] += g[i], along[j] += g[i] * unit[i]; });
  };
  sums();
  if (layer.weight >= 0) memcpy(slopes + layer.weight, along, 4 * n);
  if (layer.bias >= 0) memcpy(slopes + layer.bias, sum, 4 * n);
  if (gain) {
    each(k.B, n, [=](u64 i, u64 j) INLINE_LAMBDA { g[i] *= load<float>(gain + j); });
    sums();
  }
  for (u64 j = 0; j < n; ++j) sum[j] *= share, along[j] *= share;
  each(k.B, n, [=](u64 i, u64 j) INLINE_LAMBDA { g[i] = scale[j] * ((g[i] - sum[j]) - unit[i] * along[j]); });
}

// The mean cross-entropy of logits [B, classes], and in `slope` its gradient. Worked on with examples last.
float cross_entropy(const Work& k, const float* logits, const i64* labels) {
  u64 C = k.classes, n = k.padded;
  float *z = k.turned, *top = k.given, *total = top + n, *picked = total + n, share = 1.0f / (float)k.B;
  transpose(logits, C, k.B, C, z, n);
  memcpy(top, z, 4 * n), memset(total, 0, 4 * n);
  each(C, n, [=](u64 i, u64 b) INLINE_LAMBDA { top[b] = z[i] > top[b] ? z[i] : top[b]; });
  each(C, n, [=](u64 i, u64 b) INLINE_LAMBDA { z[i] -= top[b]; });
  for (u64 b = 0; b < k.B; ++b) picked[b] = z[(u64)load<i64>(labels + b) * n + b];
  for (u64 i = 0; i < C * n; ++i) z[i] = exponential(z[i]);
  each(C, n, [=](u64 i, u64 b) INLINE_LAMBDA { total[b] += z[i]; });
  each(C, n, [=](u64 i, u64 b) INLINE_LAMBDA { z[i] /= total[b]; });
  for (u64 b = 0; b < k.B; ++b) z[(u64)load<i64>(labels + b) * n + b] -= 1.0f;
  for (u64 i = 0; i < C * n; ++i) z[i] *= share;
  transpose(z, n, C, k.B, k.slope, C);
  for (u64 b = 0; b < n; ++b) total[b] = logarithm(total[b]);
  double loss = 0;
  for (u64 b = 0; b < k.B; ++b) loss += (double)(total[b] - picked[b]);
  return (float)(loss / (double)k.B);
}

}  // namespace
