// The gradient of K chains of dense layers, one client after the other (`_reference_dense.py` has the arithmetic).
//
// Every product is c[m, j] = start[m] + sum over k, in order, of a[m, k] b[k, j]: lanes hold neighbouring j and never
// meet, so the bits do not depend on their number. Forward, j runs over examples, which takes a transposed copy of what
// a layer takes and of what it gives; backward, j runs over the layer's inputs, as everything is stored.
#pragma once
#include <stdlib.h>

#include "simd.hpp"

namespace {

struct Layer {  // a row of `Chain.layers`
  i64 kind, inputs, outputs, weight, bias, epsilon;
};
enum { LINEAR, RELU, NORM };
constexpr i64 ABSENT = INT64_MIN;

template <int L>
struct Lanes {
  typedef float V __attribute__((vector_size(4 * L)));
};
template <>
struct Lanes<1> {
  typedef float V;
};

struct Matrix {  // element [i, j] stands at i * row + j * column
  const float* at;
  u64 row, column;
};

// M rows and J vectors of L columns of the product.
template <int L, int M, int J>
INLINE void tile(Matrix a, const float* b, u64 b_row, const float* start, float* c, u64 c_row, u64 depth) {
  using V = typename Lanes<L>::V;
  V sum[M][J];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) sum[m][j] = (start ? load<float>(start + m) : 0.0f) - V{};
  for (u64 k = 0; k < depth; ++k) {
    V row[J];
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) row[j] = load<V>(b + k * b_row + L * j);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) sum[m][j] += load<float>(a.at + (u64)m * a.row + k * a.column) * row[j];
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) store(c + (u64)m * c_row + L * j, sum[m][j]);
}

// All rows of a strip of columns, M at a time, and the rest by halves.
template <int L, int M, int J>
INLINE void strip(Matrix a, const float* b, u64 b_row, const float* start, float* c, u64 c_row, u64 rows, u64 depth) {
  for (; rows >= M; rows -= M) {
    tile<L, M, J>(a, b, b_row, start, c, c_row, depth);
    a.at += M * a.row, c += M * c_row;
    if (start) start += M;
  }
  if constexpr (M > 1) strip<L, M / 2, J>(a, b, b_row, start, c, c_row, rows, depth);
}

void product(Matrix a, const float* b, u64 b_row, const float* start, float* c, u64 c_row, u64 rows, u64 columns,
             u64 depth) {
  u64 j = 0;
#if defined(__AVX512F__)
  for (; j + 64 <= columns; j += 64) strip<16, 4, 4>(a, b + j, b_row, start, c + j, c_row, rows, depth);
  for (; j + 32 <= columns; j += 32) strip<16, 8, 2>(a, b + j, b_row, start, c + j, c_row, rows, depth);
#else
  for (; j + 2 * W <= columns; j += 2 * W) strip<W, 4, 2>(a, b + j, b_row, start, c + j, c_row, rows, depth);
#endif
  for (; j + W <= columns; j += W) strip<W, 8, 1>(a, b + j, b_row, start, c + j, c_row, rows, depth);
  if (W > 8 && j + 8 <= columns) strip<8, 8, 1>(a, b + j, b_row, start, c + j, c_row, rows, depth), j += 8;
  if (W > 4 && j + 4 <= columns) strip<4, 8, 1>(a, b + j, b_row, start, c + j, c_row, rows, depth), j += 4;
  for (; j < columns; ++j) strip<1, 8, 1>(a, b + j, b_row, start, c + j, c_row, rows, depth);
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

// What all clients share, and the room in which one after the other is worked on. [B, n] stand row by row.
struct Work {
  const Layer* layers;
  u64 count, first, classes, B, padded;  // first: the layer where trained weights begin; padded: B in whole fours
  const float* fixed;
  float *turned, *given;  // [n, padded]: what a layer takes and gives, examples last; or sums [n]
  float *slope, *other;   // [B, n]
  float** value;          // what each layer gave [B, n]; behind that of a norm stand its normalised input and scales [n]

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
  product({k.part(w, layer.weight), n, 1}, k.turned, k.padded, k.part(w, layer.bias), k.given, k.padded, m, k.padded, n);
  transpose(k.given, k.padded, m, k.B, y, m);
}

void linear_back(const Work& k, const Layer& layer, const float* w, const float* x, float* slopes, bool inner) {
  u64 n = (u64)layer.inputs, m = (u64)layer.outputs;
  const float* g = k.slope;
  if (layer.weight >= 0) product({g, 1, m}, x, n, 0, slopes + layer.weight, n, m, n, k.B);
  if (layer.bias >= 0) {
    float* sums = slopes + layer.bias;
    memset(sums, 0, 4 * m);
    each(k.B, m, [=](u64 i, u64 j) INLINE_LAMBDA { sums[j] += g[i]; });
  }
  if (inner) product({g, m, 1}, k.part(w, layer.weight), n, 0, k.other, n, k.B, n, m);
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

// One client: its loss, and its gradient in `slopes`.
float client(Work k, const float* w, const float* x, const i64* labels, float* slopes) {
  const float* in = x;
  for (u64 l = 0; l < k.count; in = k.value[l++]) {
    const Layer& layer = k.layers[l];
    float* y = k.value[l];
    if (layer.kind == LINEAR) linear(k, layer, w, in, y);
    if (layer.kind == NORM) norm(k, layer, w, in, y);
    if (layer.kind == RELU)
      for (u64 i = 0; i < k.B * (u64)layer.outputs; ++i) {
        float value = load<float>(in + i);
        y[i] = value < 0 ? 0 : value;
      }
  }
  float loss = cross_entropy(k, in, labels);
  for (u64 l = k.count; l-- > k.first;) {
    const Layer& layer = k.layers[l];
    const float* y = k.value[l];
    float* g = k.slope;
    if (layer.kind == NORM) norm_back(k, layer, w, y, slopes);
    if (layer.kind == RELU)
      for (u64 i = 0; i < k.B * (u64)layer.outputs; ++i) g[i] = y[i] > 0 ? g[i] : 0;
    if (layer.kind != LINEAR) continue;
    linear_back(k, layer, w, l ? k.value[l - 1] : x, slopes, l > k.first);
    k.slope = k.other, k.other = g;
  }
  return loss;
}

// What the work on one client at a time takes, and room for `more` floats behind `*rest`, aligned to 64 bytes; all of it
// is freed with `value`, which is null where memory ran out.
Work work_of(const i64* table, u64 count, const float* fixed, u64 B, u64 more, float** rest) {
  const Layer* layers = (const Layer*)table;
  Work k = {layers, count, count, (u64)layers[count - 1].outputs, B, (B + 3) / 4 * 4, fixed, 0, 0, 0, 0, 0};
  u64 widest = 0, values = 0;
  for (u64 l = count; l-- > 0;) {
    u64 n = (u64)layers[l].inputs, m = (u64)layers[l].outputs;
    widest = n > widest ? n : widest, widest = m > widest ? m : widest;
    values += layers[l].kind == NORM ? (2 * B + 1) * m : B * m;
    if (layers[l].weight >= 0 || layers[l].bias >= 0) k.first = l;
  }
  u64 turned = (widest + 3) * k.padded, first = (more + 15) / 16 * 16, size = first + 2 * turned + 2 * widest * B + values;
  k.value = (float**)malloc(count * sizeof(float*) + 64 + 4 * size);
  if (!k.value) return k;
  *rest = (float*)(((uintptr_t)(k.value + count) + 63) & ~(uintptr_t)63);
  k.turned = *rest + first, k.given = k.turned + turned, k.slope = k.given + turned, k.other = k.slope + widest * B;
  float* at = k.other + widest * B;
  for (u64 l = 0; l < count; ++l) {
    k.value[l] = at;
    at += (layers[l].kind == NORM ? 2 * B + 1 : B) * (u64)layers[l].outputs;
  }
  memset(k.turned, 0, 4 * turned);  // examples that are none stay finite, and fast
  return k;
}

// Losses [K] and gradients [K, d] of K clients whose weights, examples and labels stand `..._row` elements apart, once
// each element of `labels` is found below the number of classes. 0; 1 where one is not, -1 where memory ran out.
int dense_gradient(const i64* table, u64 count, const float* fixed, u64 K, u64 B, u64 d, const float* w, i64 w_row,
                   const float* x, i64 x_row, const i64* labels, i64 labels_row, float* loss, float* g) {
  u64 classes = (u64)((const Layer*)table)[count - 1].outputs;
  for (i64 i = 0; i < (i64)K; ++i)
    for (u64 b = 0; b < B; ++b)
      if ((u64)load<i64>(labels + i * labels_row + b) >= classes) return 1;
  float* none;
  Work k = work_of(table, count, fixed, B, 0, &none);
  if (!k.value) return -1;
  for (i64 i = 0; i < (i64)K; ++i)
    loss[i] = client(k, w + i * w_row, x + i * x_row, labels + i * labels_row, g + (u64)i * d);
  free(k.value);
  return 0;
}

}  // namespace
