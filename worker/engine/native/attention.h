#pragma once

#include "vectors.h"

enum { MAX_HEAD_DIM = 256, MAX_QUERIES = 16 };

// A scaled query [head_dim] that reads the first `length` tokens of a history, at least one, and its output
// [head_dim].
typedef struct {
  const float* values;
  int64_t length;
  float* output;
} query;

// A row's keys and values of one head, in the cache's type, without gaps between tokens.
typedef struct {
  const void *keys, *values;
  int64_t length;
} history;

// Computes attention of up to MAX_QUERIES queries that share a history, which is read once for all of them.
// head_dim: a multiple of WIDE. next: the history that will be read after this one, so that it can be
// fetched.
void attend_together(int64_t head_dim, int64_t is_bfloat16, const query* queries, int64_t count,
                     const history* read, const history* next);
