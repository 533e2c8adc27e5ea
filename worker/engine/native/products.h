// Products of all tokens with linear layers, shared by the threads, and the use of their outputs.
#pragma once

#include <omp.h>

#include "model.h"

typedef enum { WRITE, ADD, ACTIVATE, CHOOSE } ending;

// A product of tokens with `count` linear layers that have the same inputs. Their outputs are side by side.
//
// end: what becomes of the outputs. WRITE and ADD write or add them to `to`, float32 [tokens][stride].
// ACTIVATE stores the activations, times the gate's outputs if there is a gate, to `to` as inputs of the next
// product. CHOOSE lets them compete for `to`, the thread's candidates.
typedef struct {
  const linear* layers;
  int64_t count;
  const linear* gate;
  ending end;
  void* to;
  int64_t stride;
} product;

// One of the panels of a product's layers. index: its number in the layer. column: that of its first output.
typedef struct {
  const linear* layer;
  int64_t index, column;
} place;

static int64_t all_panels(const product* x) {
  int64_t panels = 0;
  for (int64_t i = 0; i < x->count; i++) panels += panels_of(&x->layers[i]);
  return panels;
}

static place panel_at(const product* x, int64_t panel) {
  int64_t column = 0;
  const linear* l = x->layers;
  for (; panel >= panels_of(l); l++) {
    panel -= panels_of(l);
    column += l->out;
  }
  return (place){l, panel, column + panel * PANEL};
}

// Does what the product's `end` says with up to LANES of a token's outputs. gate: NULL if there is none.
INLINED void finish(const pass* p, const product* x, floats values, const float* gate, int64_t count,
                    int64_t token, int64_t column) {
  const model* m = p->m;
  float* to = (float*)x->to + token * x->stride + column;
  const int is_whole = count >= LANES;
  switch (x->end) {
    case ACTIVATE:  // There is room for whole vectors.
      if (gate) values *= activated(*(const floats*)gate, m->activation);
      if (!gate) values = activated(values, m->activation);
      store_input(values, x->to, token * x->stride + column, m->type);
      return;
    case ADD: values += is_whole ? *(const floats*)to : load_first(to, count);  // fall through
    case WRITE:
      if (is_whole)
        *(floats*)to = values;
      else
        store_first(values, to, count);
      return;
    case CHOOSE: {
      const int64_t asked = p->open[token], row = p->b->logit_rows[asked];
      choose((candidate*)x->to + token, values, count, column, p->b->noises + asked);
      if (row < 0) return;
      float* logits = p->b->logits + row * m->head.out + column;
      if (is_whole)
        *(floats*)logits = values;
      else
        store_first(values, logits, count);
    }
  }
}

// Does what the product's `end` says with a tile of sums.
INLINED void finish_tile(const pass* p, const product* x, const place* at, const float* sums,
                         const float* gates, int64_t first_token, int64_t tokens) {
  const int64_t left = at->layer->out - at->index * PANEL, columns = left < PANEL ? left : PANEL;
  for (int64_t t = 0; t < tokens; t++) {
    for (int64_t c = 0; c < columns; c += LANES) {
      const float* gate = gates ? gates + t * PANEL + c : NULL;
      finish(p, x, *(const floats*)(sums + t * PANEL + c), gate, columns - c, first_token + t,
             at->column + c);
    }
  }
}

// Returns the part of a panel to fetch during a tile, when all `tiles` tiles, of `steps` steps each, share
// it.
INLINED ahead part_of(const void* panel, int64_t bytes, int64_t tile, int64_t tiles, int64_t steps) {
  const int64_t lines = bytes / 64, part = (lines + tiles - 1) / tiles, left = lines - part * tile;
  return ahead_of((const char*)panel + part * tile * 64, left < part ? left : part, steps);
}

INLINED ahead part_of_panel(const linear* l, int64_t panel, int64_t tile, int64_t tiles, int64_t steps,
                            int64_t type) {
  if (!l) return (ahead){0};
  const int64_t bytes = panel_bytes(l, type);
  return part_of((const char*)l->panels + panel * bytes, bytes, tile, tiles, steps);
}

// Prefetches the memory that a tile of sums will be written to.
INLINED void fetch_end(const product* x, const place* at, int64_t first_token, int64_t tokens, int64_t type) {
  if (x->end == CHOOSE) return;
  const int64_t bytes = x->end == ACTIVATE ? input_bytes(type) : 4;
  for (int64_t t = first_token; t < first_token + tokens; t++) {
    const char* to = (const char*)x->to + (t * x->stride + at->column) * bytes;
    for (int64_t line = 0; line < PANEL * bytes; line += 64) __builtin_prefetch(to + line, 1, 3);
  }
}

// Rounds all tokens' inputs to blocks.
static void round_all(const pass* p, const float* inputs, int64_t count) {
  const int64_t blocks = blocks_of(count), width = widest(p->m);
#pragma omp for schedule(static)
  for (int64_t i = 0; i < p->tokens * blocks; i++) {
    const int64_t token = i / blocks, b = i % blocks, left = count - b * BLOCK;
    const float* from = inputs + token * width + b * BLOCK;
    round_block(from, left < BLOCK ? left : BLOCK, p->blocks + token * blocks_of(width) + b);
  }
}

// Computes a thread's share of a product. next: the product that comes after it, or NULL.
//
// If there are several tiles, a panel's weights are in the cache after the first tile, so memory is idle and
// can fetch the next panel.
static void multiply_share(const pass* p, const product* x, const product* next, const void* inputs) {
  const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
  const int64_t all = all_panels(x), end = share_begin(all, thread + 1, threads);
  const int64_t tiles = (p->tokens + TILE - 1) / TILE, width = widest(p->m), type = p->m->type;
  float sums[TILE * PANEL], gates[TILE * PANEL];
  if (type == INT8) round_all(p, inputs, x->layers->in);
  const int64_t stride = type == INT8 ? blocks_of(width) : width;
  for (int64_t j = share_begin(all, thread, threads); j < end; j++) {
    const place at = panel_at(x, j);
    const int64_t steps = at.layer->in / row_inputs(type);
    const product* following = j + 1 < end ? x : next;
    place then = {0};
    if (tiles > 1 && following)
      then = panel_at(following, following == x ? j + 1 : share_begin(all_panels(next), thread, threads));
    for (int64_t i = 0; i < tiles; i++) {
      const int64_t first = p->tokens * i / tiles, count = p->tokens * (i + 1) / tiles - first;
      const void* from =
          type == INT8 ? p->blocks + first * stride : input_at(inputs, first * stride, type);
      fetch_end(x, &at, first, count, type);
      if (x->gate) {
        const linear* next_gate = then.layer ? following->gate : NULL;
        const ahead fetched = part_of_panel(next_gate, then.index, i, tiles, steps, type);
        multiply(count, x->gate, at.index, from, stride, type, &fetched, gates);
      }
      const ahead fetched = part_of_panel(then.layer, then.index, i, tiles, steps, type);
      multiply(count, at.layer, at.index, from, stride, type, &fetched, sums);
      finish_tile(p, x, &at, sums, x->gate ? gates : NULL, first, count);
    }
  }
#pragma omp barrier
}
