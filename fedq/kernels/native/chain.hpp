// The gradient of K chains of layers, one client after the other (`_reference_gradient.py` has the arithmetic).
#pragma once
#include "planes.hpp"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace {

void relu(const float* x, float* y, u64 n) {
  for (u64 i = 0; i < n; ++i) {
    float value = load<float>(x + i);
    y[i] = value < 0 ? 0 : value;
  }
}

void relu_back(const float* y, float* g, u64 n) {
  for (u64 i = 0; i < n; ++i) g[i] = y[i] > 0 ? g[i] : 0;
}

// [B, n] -> slices, and back.
void sliced(const float* in, u64 n, u64 batch, float* out) {
  each_slice(batch, [=](u64 first, u64 B) INLINE_LAMBDA { transpose(in + first * n, n, B, n, out + first * n, B); });
}
void whole(const float* in, u64 n, u64 batch, float* out) {
  each_slice(batch, [=](u64 first, u64 B) INLINE_LAMBDA { transpose(in + first * n, B, n, B, out + first * n, n); });
}

// What layer l takes: what the one before gave, or what that entered or left as.
const float* takes(const Work& k, u64 l, const float* x) {
  if (l == k.planes) return l ? k.left : x;
  return l ? k.value[l - 1] : k.entered;
}

// One client: its loss, and its gradient in `slopes`.
float client(Work k, const float* w, const float* x, const i64* labels, float* slopes) {
  if (k.planes) sliced(x, (u64)k.layers[0].inputs, k.B, k.entered);
  for (u64 l = 0; l < k.count; ++l) {
    const Layer& layer = k.layers[l];
    if (l && l == k.planes) whole(k.value[l - 1], (u64)layer.inputs, k.B, k.left);
    const float* in = takes(k, l, x);
    float* y = k.value[l];
    if (layer.kind == LINEAR) linear(k, layer, w, in, y);
    if (layer.kind == CONVOLUTION) convolution(k, layer, k.geometry[l], w, in, y);
    if (layer.kind == POOL) pool(layer, k.B, in, y);
    if (layer.kind == RELU) relu(in, y, k.B * (u64)layer.outputs);
    if (layer.kind == NORM) layer.channels ? norm_planes(k, layer, w, in, y) : norm(k, layer, w, in, y);
  }
  float loss = cross_entropy(k, k.value[k.count - 1], labels);
  auto swap = [&]() INLINE_LAMBDA {
    float* g = k.slope;
    k.slope = k.other, k.other = g;
  };
  for (u64 l = k.count; l-- > k.first;) {
    const Layer& layer = k.layers[l];
    const float *in = takes(k, l, x), *y = k.value[l];
    if (layer.kind == LINEAR) linear_back(k, layer, w, in, slopes, l > k.first), swap();
    if (layer.kind == CONVOLUTION) convolution_back(k, layer, k.geometry[l], w, in, slopes, l > k.first), swap();
    if (layer.kind == POOL) pool_back(k, layer, in, y), swap();
    if (layer.kind == RELU) relu_back(y, k.slope, k.B * (u64)layer.outputs);
    if (layer.kind == NORM) layer.channels ? norm_planes_back(k, layer, w, y, slopes) : norm_back(k, layer, w, y, slopes);
    if (l == k.planes && l > k.first) sliced(k.slope, (u64)layer.inputs, k.B, k.other), swap();
  }
  return loss;
}

// Room for arrays one after the other, each aligned to 64 bytes; without a beginning it only counts.
struct Room {
  uintptr_t begin, used;
  template <class T>
  T* take(u64 n) {
    uintptr_t at = begin + used;
    used += (sizeof(T) * n + 63) / 64 * 64;
#if defined(__SANITIZE_ADDRESS__)  // behind each array, bytes that nobody may touch
    used += 64;
    if (begin) __asan_unpoison_memory_region((void*)at, sizeof(T) * n);
    if (begin) __asan_poison_memory_region((void*)(at + sizeof(T) * n), begin + used - at - sizeof(T) * n);
#endif
    return begin ? (T*)at : 0;
  }
};

Geometry geometry(const Layer& layer, u64 B, bool inner, Room& room) {
  u64 size = (u64)layer.size, p = (u64)layer.padding, q = size - 1 - p, channels = (u64)layer.channels, area = size * size;
  u64 high = (u64)layer.height + 2 * p, wide = (u64)layer.width + 2 * p;
  Geometry o = {};
  o.high = high - size + 1, o.wide = wide - size + 1, o.maps = (u64)layer.outputs / (o.high * o.wide);
  u64 high_back = o.high + 2 * q, wide_back = o.wide + 2 * q;
  o.inputs = room.take<i64>(channels * area);
  o.slopes = room.take<i64>(o.maps * area), o.weights = room.take<i64>(o.maps * area);
  o.around = room.take<float>(p ? channels * high * wide * B : 0);
  o.around_g = room.take<float>(inner && q ? o.maps * high_back * wide_back * B : 0);
  for (u64 at = 0; room.begin && at < area; ++at) {
    u64 i = at / size, j = at % size;
    for (u64 c = 0; c < channels; ++c) o.inputs[c * area + at] = (i64)((c * high + i) * wide + j);
    for (u64 m = 0; m < o.maps; ++m) {
      o.slopes[at * o.maps + m] = (i64)((m * high_back + i) * wide_back + j);
      o.weights[at * o.maps + m] = (i64)((m * channels + 1) * area - 1 - at);
    }
  }
  return o;
}

// Work on batches of B in `room`, which is left with what remains of it.
Work work_in(Room& room, const i64* table, u64 count, const float* fixed, u64 B) {
  Work k = {};
  k.layers = (const Layer*)table, k.fixed = fixed, k.count = k.first = count;
  k.classes = (u64)k.layers[count - 1].outputs, k.B = B, k.padded = (B + 3) / 4 * 4;
  u64 widest = 0, dense = 0, partial = 0;
  for (u64 l = count; l-- > 0;) {
    const Layer& layer = k.layers[l];
    u64 n = (u64)layer.inputs, m = (u64)layer.outputs, most = n > m ? n : m;
    widest = most > widest ? most : widest;
    if (!layer.channels) dense = most > dense ? most : dense;
    if (layer.channels && !k.planes) k.planes = l + 1;
    if (layer.weight >= 0 || layer.bias >= 0) k.first = l;
  }
  u64 turned = (dense + 3) * k.padded;
  k.turned = room.take<float>(turned), k.given = room.take<float>(turned);
  k.slope = room.take<float>(widest * B), k.other = room.take<float>(widest * B);
  k.entered = room.take<float>(k.planes ? (u64)k.layers[0].inputs * B : 0);
  k.left = room.take<float>(k.planes ? (u64)k.layers[k.planes - 1].outputs * B : 0);
  k.value = room.take<float*>(count), k.geometry = room.take<Geometry>(count);
  for (u64 l = 0; l < count; ++l) {
    const Layer& layer = k.layers[l];
    u64 n = (u64)layer.outputs;
    bool in_place = layer.kind == RELU && l && l != k.planes;
    float* y = in_place ? 0 : room.take<float>(layer.kind == NORM ? (2 * B + 1) * n : B * n);
    if (room.begin) k.value[l] = in_place ? k.value[l - 1] : y;
    if (layer.kind != CONVOLUTION) continue;
    Geometry o = geometry(layer, least(SLICE, B), l > k.first, room);
    if (room.begin) k.geometry[l] = o;
    u64 own = o.maps * (u64)(layer.channels * layer.size * layer.size + 1);
    partial = B > SLICE && own > partial ? own : partial;
  }
  k.partial = room.take<float>(partial);
  if (room.begin) memset(k.turned, 0, 4 * turned), memset(k.given, 0, 4 * turned);  // for columns that are no examples
  return k;
}

// The bytes that kernels work in, at any address, on batches of B; with `d` also for steps on as many weights.
u64 chain_room(const i64* table, u64 count, u64 B, u64 d) {
  Room room = {0, 64};
  work_in(room, table, count, 0, B);
  if (d) room.take<i64>(B), room.take<float>(B * (u64)((const Layer*)table)->inputs), room.take<float>(d);
  return room.used;
}

INLINE Room room_at(u8* bytes) { return {((uintptr_t)bytes + 63) & ~(uintptr_t)63, 0}; }

// Losses [K] and gradients [K, d] of K clients whose weights, examples and labels stand `..._row` elements apart, once
// each element of `labels` is found below the number of classes. 0; 1 where one is not.
int chain_gradient(const i64* table, u64 count, const float* fixed, u64 K, u64 B, u64 d, const float* w, i64 w_row,
                   const float* x, i64 x_row, const i64* labels, i64 labels_row, float* loss, float* g, u8* bytes) {
  u64 classes = (u64)((const Layer*)table)[count - 1].outputs;
  for (i64 i = 0; i < (i64)K; ++i)
    for (u64 b = 0; b < B; ++b)
      if ((u64)load<i64>(labels + i * labels_row + b) >= classes) return 1;
  Room room = room_at(bytes);
  Work k = work_in(room, table, count, fixed, B);
  for (i64 i = 0; i < (i64)K; ++i)
    loss[i] = client(k, w + i * w_row, x + i * x_row, labels + i * labels_row, g + (u64)i * d);
  return 0;
}

}  // namespace
