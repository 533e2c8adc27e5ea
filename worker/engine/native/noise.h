// Noise that makes an argmax a draw: the token of the highest logit / temperature + Gumbel noise is
// distributed as softmax(logits / temperature).
//
// A token's noise is a function of a 64-bit key and its id, and of nothing else, so that a sequence that
// another worker continues is drawn as the first worker would have drawn it. worker/engine/sampling.py has
// the same function for torch; the two agree to rounding.
#pragma once

#include "vectors.h"

// How a token is drawn. inverse_temperature: 0 for the token of the highest logit, without noise.
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

// 31 random bits for each id.
INLINED floats noise_bits(words ids, const noise* n) {
  const words bits = scrambled(scrambled(ids, 0) ^ n->low, n->high) & 0x7fffffff;
  return __builtin_convertvector((integers)bits, floats);
}

// -log(-log(1 - u)) for u uniform in (0, 1), from 31 random bits. A logarithm of 1 - u alone would lose the
// small u, which make the highest noise.
INLINED floats noise_of(words ids, const noise* n) {
  const floats random = (noise_bits(ids, n) + 0.5f) * 0x1p-31f;
  const floats u = chosen(random > 1 - 0x1p-24f, all_of(1 - 0x1p-24f), random);
  const floats rest = 1 - u, lost = (1 - rest) - u;  // 1 - u is rest + lost.
  return -log_of(-(log_of(rest) + lost / rest));
}

// inverse_temperature is not 0.
INLINED floats noisy(floats logits, words ids, const noise* n) {
  return fma_of(logits, all_of(n->inverse_temperature), noise_of(ids, n));
}

// A bit for each of the logits that may be `score` or more with its noise, or is not finite. It may say so in
// vain, but never the opposite. Nearly all are struck out here, in a third of the time that noise takes.
//
// The noise is z or more only where u <= 1 - exp(-exp(-z)), hence u <= exp(-z). And exp(y) = 2^k 2^f is at
// most 2^k (1 + f), the number whose bits are those of y / ln 2 in fixed point.
INLINED uint32_t may_reach(floats logits, words ids, const noise* n, float score) {
  const floats scaled = logits * n->inverse_temperature, needed = score - scaled;
  const floats rounding = (absolute(scaled) + fabsf(score)) * 1e-6f + 1e-3f, y = rounding - needed;
  // Above 22 every u will do, as for what is not a number.
  const floats below_22 = chosen(y < 22.0f, y, all_of(22.0f));
  // Where a filter took a logit, `scaled` is -inf, and y not a number.
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

// The highest score so far, and its token. A score is a logit, or what `noisy` makes of it.
typedef struct {
  float score;
  int32_t token;
} candidate;

// Considers the logits of the `count` tokens from `first` on. Of equals the first stays the best. NaN is
// better than anything.
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
