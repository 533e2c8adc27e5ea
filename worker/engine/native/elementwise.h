// What is done to each token, or each number, by itself: norms, activations, rotary positions.
#pragma once

#include "vectors.h"

typedef enum { RELU, GELU, GELU_TANH, SILU } activation;

typedef struct {
  const float *weight, *bias;  // bias may be NULL
} norm;

INLINED void normalize(const float* from, const norm* n, int64_t width, int64_t is_rms, float epsilon,
                       float* to) {
  floats total = {0}, squares = {0};
  float mean = 0;
  if (!is_rms) {
    for (int64_t i = 0; i < width; i += LANES) total += *(const floats*)(from + i);
    mean = sum(total) / width;
  }
  for (int64_t i = 0; i < width; i += LANES) {
    const floats centred = *(const floats*)(from + i) - mean;
    squares += centred * centred;
  }
  const float factor = 1 / sqrtf(sum(squares) / width + epsilon);
  for (int64_t i = 0; i < width; i += LANES) {
    const floats normed = (*(const floats*)(from + i) - mean) * factor * *(const floats*)(n->weight + i);
    *(floats*)(to + i) = n->bias ? normed + *(const floats*)(n->bias + i) : normed;
  }
}

// tanh(x) = 1 - 2 / (e^2x + 1)
INLINED floats tanh_of(floats x) { return 1 - 2 / (exp_of(x + x) + 1); }

// erf(x) to within 1.5e-7 (Abramowitz and Stegun 7.1.26).
INLINED floats erf_of(floats x) {
  const floats size = chosen(x < 0, -x, x);
  const floats t = 1 / (1 + 0.3275911f * size);
  const floats series =
      ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
  const floats result = 1 - series * exp_of(-size * size);
  return chosen(x < 0, -result, result);
}

INLINED floats activated(floats x, int64_t activation) {
  switch (activation) {
    case RELU: return chosen(x < 0, (floats){0}, x);
    case GELU: return 0.5f * x * (1 + erf_of(x * 0.70710678f));
    case GELU_TANH: return 0.5f * x * (1 + tanh_of(0.79788456f * (x + 0.044715f * x * x * x)));
    default: return x / (1 + exp_of(-x));
  }
}

// Rotary positions: each half of a head turns with the other.
INLINED void rotate(float* head, const float* cosines, const float* sines, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; i++) {
    const float first = head[i], second = head[half + i];
    head[i] = first * cosines[i] - second * sines[i];
    head[half + i] = second * cosines[half + i] + first * sines[half + i];
  }
}
