// The steps of local training, element by element (`_reference_steps.py` has the arithmetic).
#pragma once
#include "chain.hpp"

namespace {

INLINE float tanh_half_of(float s) {
  float e = exponential(-__builtin_fabsf(s));
  return __builtin_copysignf((1.0f - e) / (1.0f + e), s);
}

template <bool LATENT>
INLINE void adam(const float* __restrict__ gradient, float* __restrict__ x, float* __restrict__ m, float* __restrict__ v,
                 float* __restrict__ w, float slope, float to_m, float to_v, float keeps, float rate, float floor, u64 n) {
  for (u64 i = 0; i < n; ++i) {
    float g = load<float>(gradient + i);
    if (LATENT) g = g * (slope - slope * (w[i] * w[i]));
    m[i] = m[i] + (g - m[i]) * to_m;
    v[i] = v[i] * keeps + (g * g) * to_v;
    x[i] = x[i] - rate * (m[i] / (__builtin_sqrtf(v[i]) + floor));
    if (LATENT) w[i] = tanh_half_of(x[i]);
  }
}

template <bool LATENT, bool MOMENTUM>
INLINE void sgd(const float* __restrict__ gradient, float* __restrict__ x, float* __restrict__ v, float* __restrict__ w,
                float slope, float momentum, float rate, u64 n) {
  for (u64 i = 0; i < n; ++i) {
    float g = load<float>(gradient + i);
    if (LATENT) g = g * (slope - slope * (w[i] * w[i]));
    if (MOMENTUM) g = v[i] = v[i] * momentum + g;
    x[i] = x[i] - rate * g;
    if (LATENT) w[i] = tanh_half_of(x[i]);
  }
}

// A step on w: of Adam where there is m, else of SGD. With s it is w = tanh(s / 2) that has the gradient, and s that moves.
void step(const float* g, float* w, float* s, float* m, float* v, const float* rates, float slope, float momentum, u64 n) {
  float r[5];
  memcpy(r, rates, sizeof r);
  if (m && s) adam<true>(g, s, m, v, w, slope, r[0], r[1], r[2], r[3], r[4], n);
  else if (m) adam<false>(g, w, m, v, 0, 0, r[0], r[1], r[2], r[3], r[4], n);
  else if (s && v) sgd<true, true>(g, s, v, w, slope, momentum, r[3], n);
  else if (s) sgd<true, false>(g, s, 0, w, slope, 0, r[3], n);
  else if (v) sgd<false, true>(g, w, v, 0, 0, momentum, r[3], n);
  else sgd<false, false>(g, w, 0, 0, 0, 0, r[3], n);
}

// S local steps of K clients, one client after the other, in place: `place` [K, S, B] says where each batch stands among
// `count` examples, `rates` [S, 5] are those of `Rates`, and the steps are those of `step`. To `loss` [K] those of all steps
// are added. 0; 1 for a label that is none, 2 for such a place; nothing is written then.
int chain_descent(const i64* table, u64 layers, const float* fixed, u64 K, u64 S, u64 B, u64 d, const float* x,
                  const i64* labels, u64 count, const i64* place, float* w, float* s, float* m, float* v, const float* rates,
                  float slope, float momentum, float decay, double* loss, u8* bytes) {
  u64 n = (u64)((const Layer*)table)[0].inputs, classes = (u64)((const Layer*)table)[layers - 1].outputs;
  for (u64 i = 0; i < K * S * B; ++i) {
    u64 at = (u64)load<i64>(place + i);
    if (at >= count) return 2;
    if ((u64)load<i64>(labels + at) >= classes) return 1;
  }
  Room room = room_at(bytes);
  Work k = work_in(room, table, layers, fixed, B);
  i64* own_labels = room.take<i64>(B);
  float *own = room.take<float>(B * n), *g = room.take<float>(d);
  for (u64 i = 0; i < K; ++i) {
    float *of = w + i * d, *s_of = s ? s + i * d : 0, *m_of = m ? m + i * d : 0, *v_of = v ? v + i * d : 0;
    for (u64 t = 0; t < S; ++t) {
      for (u64 b = 0; b < B; ++b) {
        u64 at = (u64)load<i64>(place + (i * S + t) * B + b);
        memcpy(own + b * n, x + at * n, 4 * n);
        own_labels[b] = load<i64>(labels + at);
      }
      loss[i] += (double)client(k, of, own, own_labels, g);
      if (decay != 0)
        for (u64 j = 0; j < d; ++j) g[j] = g[j] + decay * of[j];
      step(g, of, s_of, m_of, v_of, rates + 5 * t, slope, momentum, d);
    }
  }
  return 0;
}

void tanh_half(const float* s, float* out, u64 n) {
  for (u64 i = 0; i < n; ++i) out[i] = tanh_half_of(load<float>(s + i));
}

}  // namespace
