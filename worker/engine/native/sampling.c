// Draws a token for each row of a batch's logits, with min_p, top_k and top_p.
//
// A filter keeps the best tokens down to a last one. A histogram of the logits finds the last token without
// sorting the vocabulary: only the tokens of one bucket are sorted. One pass draws from the kept tokens, see
// noise.h.
#include <omp.h>
#include <stdlib.h>

#include "noise.h"

enum { BUCKETS = 2048 };

// How a row is drawn. A top_k of 0, a top_p of 1 and a min_p of 0 are off.
typedef struct {
  noise drawn;
  float top_p, min_p;
  int64_t top_k;
} row_options;

// The logits of a row, [vocab]. highest, lowest: the highest and the lowest finite logit.
typedef struct {
  const float* logits;
  int64_t vocab;
  float highest, lowest, inverse_temperature;
} row;

// The last token that a filter keeps. The filter removes tokens with the same logit and a higher id.
typedef struct {
  float logit;
  int32_t token;
} last_token;

// counts: the number of tokens in each bucket. masses: the sum of their exp((logit - highest) / temperature).
// The first bucket has the highest logits. An additional bucket at the end has the removed tokens.
typedef struct {
  int32_t counts[BUCKETS + 1];
  double masses[BUCKETS + 1];
  float per_logit;
} histogram;

// Sets highest and lowest. Returns whether there is a highest logit and it is finite.
static int find_range(row* r) {
  floats highest = all_of(-INFINITY), lowest = all_of(INFINITY);
  integers has_nan = {0};
  for (int64_t i = 0; i < r->vocab; i += LANES) {
    const int64_t left = r->vocab - i;
    floats logits = left < LANES ? load_first(r->logits + i, left) : *(const floats*)(r->logits + i);
    for (int64_t lane = left; lane < LANES; lane++) logits[lane] = r->logits[0];
    has_nan |= logits != logits;
    highest = chosen(logits > highest, logits, highest);
    const floats finite = chosen(logits > -INFINITY, logits, all_of(INFINITY));
    lowest = chosen(finite < lowest, finite, lowest);
  }
  r->highest = -INFINITY;
  r->lowest = INFINITY;
  for (int64_t lane = 0; lane < LANES; lane++) {
    if (has_nan[lane]) return 0;
    r->highest = fmaxf(r->highest, highest[lane]);
    r->lowest = fminf(r->lowest, lowest[lane]);
  }
  return isfinite(r->highest);
}

// Returns the bucket of each logit; BUCKETS if the logit is below `least`, or after the row's end.
INLINED floats buckets_of(const row* r, const histogram* h, floats logits, int64_t left, float least) {
  const floats bucket = (r->highest - logits) * h->per_logit, last_bucket = all_of(BUCKETS - 1);
  const floats found = chosen(bucket < last_bucket, bucket, last_bucket);
  const integers is_counted = (logits >= all_of(least)) & ((integers)ids_from(0) < (int32_t)left);
  return chosen(is_counted, __builtin_convertvector(__builtin_convertvector(found, integers), floats),
                all_of(BUCKETS));
}

INLINED floats logits_from(const row* r, int64_t i) {
  const int64_t left = r->vocab - i;
  return left < LANES ? load_first(r->logits + i, left) : *(const floats*)(r->logits + i);
}

static void count(const row* r, float least, histogram* h) {
  memset(h, 0, sizeof *h);
  const float range = r->highest - (least > r->lowest ? least : r->lowest);
  h->per_logit = range > 0 ? (BUCKETS - 1) / range : 0;
  for (int64_t i = 0; i < r->vocab; i += LANES) {
    const floats logits = logits_from(r, i);
    const floats masses = exp_of((logits - r->highest) * r->inverse_temperature);
    const integers buckets = __builtin_convertvector(buckets_of(r, h, logits, r->vocab - i, least), integers);
    for (int64_t lane = 0; lane < LANES; lane++) {
      h->counts[buckets[lane]]++;
      h->masses[buckets[lane]] += masses[lane];
    }
  }
}

typedef struct {
  float logit;
  int32_t token;
} ranked;

// Sorts by logit, highest first. Ties go to the lower id.
static int by_rank(const void* a, const void* b) {
  const ranked *first = a, *second = b;
  if (first->logit != second->logit) return first->logit > second->logit ? -1 : 1;
  return first->token < second->token ? -1 : 1;
}

// Writes the tokens of a bucket to `to`, the best first. Returns how many there are.
static int64_t rank_bucket(const row* r, const histogram* h, int64_t bucket, float least, ranked* to) {
  int64_t found = 0;
  for (int64_t i = 0; i < r->vocab; i += LANES) {
    const floats logits = logits_from(r, i);
    const integers is_in = buckets_of(r, h, logits, r->vocab - i, least) == all_of(bucket);
    uint32_t lanes = bits_above(chosen(is_in, all_of(1), all_of(0)), all_of(0));
    for (; lanes; lanes &= lanes - 1) {
      const int lane = __builtin_ctz(lanes);
      to[found++] = (ranked){logits[lane], i + lane};
    }
  }
  qsort(to, found, sizeof *to, by_rank);
  return found;
}

INLINED float mass_of(const row* r, float logit) {
  return exp_of_one((logit - r->highest) * r->inverse_temperature);
}

// Returns the last of the `most` best tokens, and sets `mass` to the mass of all of these.
static last_token end_of_top_k(const row* r, const histogram* h, int64_t most, float least, ranked* scratch,
                               double* mass) {
  int64_t bucket = 0, before = 0;
  *mass = 0;
  while (before + h->counts[bucket] < most) {
    before += h->counts[bucket];
    *mass += h->masses[bucket++];
  }
  rank_bucket(r, h, bucket, least, scratch);
  for (int64_t i = 0; i < most - before; i++) *mass += mass_of(r, scratch[i].logit);
  const ranked last = scratch[most - before - 1];
  return (last_token){last.logit, last.token};
}

// Returns the last of the fewest best tokens whose masses reach `wanted` together.
static last_token end_of_top_p(const row* r, const histogram* h, double wanted, float least,
                               ranked* scratch) {
  int64_t bucket = 0, last_filled = 0;
  double before = 0;
  for (; bucket < BUCKETS && before + h->masses[bucket] < wanted; bucket++) {
    before += h->masses[bucket];
    if (h->counts[bucket]) last_filled = bucket;
  }
  if (bucket == BUCKETS || !h->counts[bucket]) bucket = last_filled;  // By rounding, all tokens are kept.
  const int64_t found = rank_bucket(r, h, bucket, least, scratch);
  int64_t last = 0;
  for (; last < found - 1; last++) {
    before += mass_of(r, scratch[last].logit);
    if (!(before < wanted)) break;
  }
  return (last_token){scratch[last].logit, scratch[last].token};
}

// scratch: [vocab].
static last_token filter(const row* r, const row_options* options, ranked* scratch) {
  histogram h;
  float least = -INFINITY;
  if (options->min_p > 0) least = r->highest + logf(options->min_p) / r->inverse_temperature;
  last_token last = {least, INT32_MAX};
  const int64_t has_top_k = options->top_k > 0 && options->top_k < r->vocab, has_top_p = options->top_p < 1;
  if (!has_top_k && !has_top_p) return last;
  count(r, least, &h);
  int64_t left = 0;
  double mass = 0;
  for (int64_t i = 0; i < BUCKETS; i++) {
    left += h.counts[i];
    mass += h.masses[i];
  }
  if (has_top_k && options->top_k < left) last = end_of_top_k(r, &h, options->top_k, least, scratch, &mass);
  if (!has_top_p) return last;
  const last_token by_top_p = end_of_top_p(r, &h, options->top_p * mass, least, scratch);
  const int is_earlier =
      by_top_p.logit > last.logit || (by_top_p.logit == last.logit && by_top_p.token < last.token);
  return is_earlier ? by_top_p : last;
}

// Returns the kept token with the highest score.
static int64_t draw_left(const row* r, const noise* drawn, last_token last) {
  candidate best = {-INFINITY, -1};
  for (int64_t i = 0; i < r->vocab; i += LANES) {
    const int64_t left = r->vocab - i;
    floats logits = left < LANES ? load_first(r->logits + i, left) : *(const floats*)(r->logits + i);
    const integers ids = (integers)ids_from(i);
    const integers is_left = (logits > last.logit) | ((logits == last.logit) & (ids <= last.token));
    logits = chosen(is_left, logits, all_of(-INFINITY));
    choose(&best, logits, left, i, drawn);
  }
  return best.token;
}

static int64_t draw_row(row* r, const row_options* options, ranked* scratch) {
  if (!find_range(r)) return -1;
  last_token last = {-INFINITY, INT32_MAX};
  if (options->drawn.inverse_temperature) {
    r->inverse_temperature = options->drawn.inverse_temperature;
    last = filter(r, options, scratch);
  }
  return draw_left(r, &options->drawn, last);
}

int64_t draw_scratch_bytes(int64_t vocab, int64_t threads) {
  return threads * vocab * (int64_t)sizeof(ranked);
}

// Draws `tokens` [rows] from logits [rows, vocab]; -1 for a row whose highest logit is not finite. options:
// for each row. scratch: `draw_scratch_bytes` bytes.
void draw(const float* logits, int64_t rows, int64_t vocab, const row_options* options, int64_t threads,
          void* scratch, int64_t* tokens) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < rows; i++) {
    row r = {.logits = logits + i * vocab, .vocab = vocab};
    tokens[i] = draw_row(&r, &options[i], (ranked*)scratch + omp_get_thread_num() * vocab);
  }
}
