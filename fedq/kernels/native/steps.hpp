// The steps of local training, element by element (`_reference_steps.py` has the arithmetic).
#pragma once
#include "dense.hpp"

namespace {

INLINE float tanh_half_of(float s) {
  float e = exponential(-__builtin_fabsf(s));
  return __builtin_copysignf((1.0f - e) / (1.0f + e), s);
}

template <bool LATENT>
INLINE void adam_steps(const float* __restrict__ gradient, float* __restrict__ x, float* __restrict__ m, float* __restrict__ v,
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

// A step of Adam on x; where there is w = tanh(x / 2), it is that which has the gradient.
void adam(const float* g, float* x, float* m, float* v, float* w, float slope, float to_m, float to_v, float keeps, float rate,
          float floor, u64 n) {
  if (w) adam_steps<true>(g, x, m, v, w, slope, to_m, to_v, keeps, rate, floor, n);
  else adam_steps<false>(g, x, m, v, w, 0, to_m, to_v, keeps, rate, floor, n);
}

void tanh_half(const float* s, float* out, u64 n) {
  for (u64 i = 0; i < n; ++i) out[i] = tanh_half_of(load<float>(s + i));
}

}  // namespace
