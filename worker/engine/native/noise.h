// Sampling by noise: the argmax of logits / temperature + Gumbel noise is distributed as
// softmax(logits / temperature).
//
// A token's noise depends only on a 64-bit key and the token's id. So another worker that continues a
// sequence draws the same tokens as the first one would have. worker/engine/sampling.py has the same function
// for torch. The two agree except for rounding.
#pragma once

#include "vectors.h"

// How a token is drawn. inverse_temperature: 0 for the argmax of the logits, without noise.
typedef struct {
  float inverse_temperature;
  uint32_t low, high;  // The key.
} noise;

// `lowbias32` of github.com/skeeto/hash-prospector, with a key added halfway.
INLINED words scrambled(words bits, uint32_t key) {
  bits ^= bits >> 16;
  bits = bits * 0x7feb352d + key;
  bits ^= bits >> 15;
  bits *= 0x846ca68b;
  return bits ^ bits >> 16;
}

// Returns 31 random bits for each id.
INLINED floats noise_bits(words ids, const noise* n) {
  const words bits = scrambled(scrambled(ids, 0) ^ n->low, n->high) & 0x7fffffff;
  return __builtin_convertvector((integers)bits, floats);
}

// Returns -log(-log(1 - u)) for u uniform in (0, 1), from 31 random bits. Rounding 1 - u to float32 would
// lose the bits of small u, which give the highest noise, so the rounding error is added separately.
INLINED floats noise_of(words ids, const noise* n) {
  const floats random = (noise_bits(ids, n) + 0.5f) * 0x1p-31f;
  const floats u = chosen(random > 1 - 0x1p-24f, all_of(1 - 0x1p-24f), random);
  const floats rest = 1 - u, lost = (1 - rest) - u;  // 1 - u is rest + lost.
  return -log_of(-(log_of(rest) + lost / rest));
}

// Returns scores: logits / temperature + noise. inverse_temperature must not be 0.
INLINED floats noisy(floats logits, words ids, const noise* n) {
  return fma_of(logits, all_of(n->inverse_temperature), noise_of(ids, n));
}

// Returns a bit for each logit whose score may be at least `score`, or that is not finite. It may set too
// many bits, but never too few. It excludes nearly all logits in a third of the time that their noise takes.
//
// The noise is at least z only if u <= 1 - exp(-exp(-z)), hence only if u <= exp(-z). exp(y) = 2^k 2^f is at
// most 2^k (1 + f), and the bits of that number are those of y / ln 2 in fixed point.
INLINED uint32_t may_reach(floats logits, words ids, const noise* n, float score) {
  const floats scaled = logits * n->inverse_temperature, needed = score - scaled;
  const floats rounding = (absolute(scaled) + fabsf(score)) * 1e-6f + 1e-3f, y = rounding - needed;
  // Above 22, and for NaN, every u passes.
  const floats below_22 = chosen(y < 22.0f, y, all_of(22.0f));
  // If a filter has removed a token, `scaled` is -inf and y is NaN.
  const integers is_out = (scaled == all_of(-INFINITY)) & (all_of(score) > all_of(-INFINITY));
  const floats in_range = chosen((below_22 > -60.0f) & ~is_out, below_22, all_of(-60.0f));
  const floats limit =
      (floats)(__builtin_convertvector(in_range * (0x1p23f * 1.44269504f), integers) + ((127 + 31) << 23));
  return ~bits_above(noise_bits(ids, n), limit);
}

INLINED words ids_from(int64_t first) {
  static const uint32_t from_0[WIDE] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return *(const words*)from_0 + (uint32_t)first;
}

INLINED uint32_t first_bits(int64_t count) { return count < LANES ? (1u << count) - 1 : (1u << LANES) - 1; }

// The highest score so far, and its token. A score is a logit, or the result of `noisy`.
typedef struct {
  float score;
  int32_t token;
} candidate;

// Compares the logits of the `count` tokens from `first` on with the best candidate. On ties, the earlier
// token stays the best. NaN counts as higher than any number.
INLINED void choose(candidate* best, floats logits, int64_t count, int64_t first, const noise* n) {
  const uint32_t all = first_bits(count);
  floats scores = logits;
  if (n->inverse_temperature) {
    const words ids = ids_from(first);
    if (!(may_reach(logits, ids, n, best->score) & all)) return;
    scores = noisy(logits, ids, n);
  }
  for (uint32_t better = bits_above(scores, all_of(best->score)) & all; better; better &= better - 1) {
    const int lane = __builtin_ctz(better);
    if (!(scores[lane] <= best->score) && !isnan(best->score))
      *best = (candidate){scores[lane], first + lane};
  }
}
