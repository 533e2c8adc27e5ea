// Operations on single tokens or numbers: norms, activations, rotary positions.
#pragma once

#include "vectors.h"

typedef enum { RELU, GELU, GELU_TANH, SILU } activation;

typedef struct {
  const float *weight, *bias;  // bias may be NULL
} norm;

// width: a multiple of WIDE.
INLINED void normalize(const float* from, const norm* n, int64_t width, int64_t is_rms, float epsilon,
                       float* to) {
  wide total = {0}, squares = {0};
  float mean = 0;
  if (!is_rms) {
    for (int64_t i = 0; i < width; i += WIDE)
      for (int64_t p = 0; p < PARTS; p++) total.part[p] += *(const floats*)(from + i + p * LANES);
    mean = sum(total) / width;
  }
  for (int64_t i = 0; i < width; i += WIDE) {
    for (int64_t p = 0; p < PARTS; p++) {
      const floats centred = *(const floats*)(from + i + p * LANES) - mean;
      squares.part[p] = fma_of(centred, centred, squares.part[p]);
    }
  }
  const float factor = 1 / sqrtf(sum(squares) / width + epsilon);
  for (int64_t i = 0; i < width; i += LANES) {
    const floats scaled = (*(const floats*)(from + i) - mean) * factor,
                 weight = *(const floats*)(n->weight + i);
    *(floats*)(to + i) = n->bias ? fma_of(scaled, weight, *(const floats*)(n->bias + i)) : scaled * weight;
  }
}

// tanh(x) = 1 - 2 / (e^2x + 1)
INLINED floats tanh_of(floats x) { return 1 - 2 / (exp_of(x + x) + 1); }

// erf(x) to within 1.5e-7 (Abramowitz and Stegun 7.1.26).
INLINED floats erf_of(floats x) {
  const floats size = chosen(x < 0, -x, x);
  const floats t = 1 / fma_of(all_of(0.3275911f), size, all_of(1));
  floats series = all_of(1.061405429f);
  series = fma_of(series, t, all_of(-1.453152027f));
  series = fma_of(series, t, all_of(1.421413741f));
  series = fma_of(series, t, all_of(-0.284496736f));
  series = fma_of(series, t, all_of(0.254829592f));
  const floats result = fma_of(-series * t, exp_of(-size * size), all_of(1));
  return chosen(x < 0, -result, result);
}

INLINED floats activated(floats x, int64_t activation) {
  switch (activation) {
    case RELU: return chosen(x < 0, (floats){0}, x);
    case GELU: return 0.5f * x * (1 + erf_of(x * 0.70710678f));
    case GELU_TANH: return 0.5f * x * (1 + tanh_of(0.79788456f * fma_of(0.044715f * x * x, x, x)));
    default: return x / (1 + exp_of(-x));
  }
}

// Applies rotary positions: number i of a head's first half rotates with number i of its second half.
INLINED void rotate(float* head, const float* cosines, const float* sines, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; i++) {
    const float first = head[i], second = head[half + i];
    head[i] = __builtin_fmaf(first, cosines[i], -(second * sines[i]));
    head[half + i] = __builtin_fmaf(second, cosines[half + i], first * sines[half + i]);
  }
}
