// A decoder-only transformer: one call computes the next tokens of a batch of tokens.
//
// The batch has tokens of many sequences: the newest tokens of running ones, and prompts of joining ones.
// Each token has its own position in its own row of the cache. Sums, norms and the residual stream are
// float32, even if weights and cache are bfloat16. product.h says why a token's result does not depend on the
// batch.
#include "products.h"

int64_t scratch_bytes(const model* m, int64_t tokens, int64_t asked, int64_t threads) {
  pass p = {.m = m};
  return lay_out(&p, tokens, asked, threads, 0);
}

// Looks up the embeddings of all tokens. Their sum with learnt positions is rounded to the model's type.
static void embed_all(const pass* p) {
  const model* m = p->m;
#pragma omp for schedule(static)
  for (int64_t t = 0; t < p->tokens; t++) {
    const int64_t from = p->b->token_ids[t] * m->hidden, place = p->b->positions[t] * m->hidden;
    for (int64_t i = 0; i < m->hidden; i += LANES) {
      floats values = load(m->embeddings, from + i, is_bfloat16(m));
      if (m->positions) values += load(m->positions, place + i, is_bfloat16(m));
      if (m->positions && is_bfloat16(m)) values = rounded_to_bfloat16(values);
      *(floats*)(p->hidden + t * m->hidden + i) = values;
    }
  }
}

// --- the phases of a layer. The threads share the work of each phase, and wait for each other at its end.

static void norm_all(const pass* p, const norm* n) {
  const model* m = p->m;
#pragma omp for schedule(static)
  for (int64_t t = 0; t < p->tokens; t++) {
    float normed[m->hidden];
    normalize(p->hidden + t * m->hidden, n, m->hidden, m->is_rms, m->epsilon, normed);
    for (int64_t i = 0; i < m->hidden; i += LANES)
      store_input(*(floats*)(normed + i), p->inputs, t * widest(m) + i, m->type);
  }
}

// Returns the address of a token's key (which = 0) or value (which = 1).
INLINED void* cached(const pass* p, int64_t layer, int64_t which, int64_t row, int64_t head,
                     int64_t position) {
  const row_states* r = &p->b->cache[row];
  const int64_t token = ((layer * 2 + which) * p->m->kv_heads + head) * r->room + position;
  return element(r->states, token * p->m->head_dim, is_bfloat16(p->m));
}

// Applies norms and rotary positions to queries and keys, and stores keys and values in the cache.
static void place_all(const pass* p, const layer* l, int64_t layer) {
  const model* m = p->m;
  const batch* b = p->b;
  const int64_t head_dim = m->head_dim;
#pragma omp for schedule(static)
  for (int64_t t = 0; t < p->tokens; t++) {
    float* heads = p->projected + t * projected_width(m);
    const int64_t angles = b->positions[t] * head_dim;
    for (int64_t h = 0; h < m->heads + m->kv_heads; h++) {
      float* head = heads + h * head_dim;
      const norm* n = h < m->heads ? &l->query_norm : &l->key_norm;
      if (n->weight) normalize(head, n, head_dim, m->is_rms, m->epsilon, head);
      if (b->cosines) rotate(head, b->cosines + angles, b->sines + angles, head_dim);
    }
    for (int64_t i = 0; i < query_width(m); i += LANES) *(floats*)(heads + i) *= m->scale;
    const float *keys = heads + query_width(m), *values = keys + kv_width(m);
    for (int64_t h = 0; h < m->kv_heads; h++) {
      void* key = cached(p, layer, 0, b->rows[t], h, b->positions[t]);
      void* value = cached(p, layer, 1, b->rows[t], h, b->positions[t]);
      for (int64_t i = 0; i < head_dim; i += LANES) {
        store(*(const floats*)(keys + h * head_dim + i), key, i, is_bfloat16(m));
        store(*(const floats*)(values + h * head_dim + i), value, i, is_bfloat16(m));
      }
    }
  }
}

// Returns the keys and values that a group reads of a head; an empty history after the last item.
static history history_of(const pass* p, int64_t layer, int64_t item) {
  const int64_t group = item / p->m->kv_heads, head = item % p->m->kv_heads;
  if (group >= p->group_count) return (history){0};
  const int64_t last = p->groups[group + 1] - 1, row = p->b->rows[last];
  return (history){cached(p, layer, 0, row, head, 0), cached(p, layer, 1, row, head, 0),
                   p->b->positions[last] + 1};
}

// Computes attention of a group's queries for one head of keys and values.
static void attend_group(const pass* p, int64_t group, int64_t head, const history* read,
                         const history* next) {
  const model* m = p->m;
  const int64_t shared = m->heads / m->kv_heads, first = p->groups[group], end = p->groups[group + 1];
  float outputs[MAX_QUERIES * MAX_HEAD_DIM];
  query queries[MAX_QUERIES] = {0};
  int64_t count = 0;
  for (int64_t t = first; t < end; t++) {
    for (int64_t h = head * shared; h < (head + 1) * shared; h++, count++) {
      const float* values = p->projected + t * projected_width(m) + h * m->head_dim;
      queries[count] = (query){values, p->b->positions[t] + 1, outputs + count * m->head_dim};
    }
  }
  attend_together(m->head_dim, is_bfloat16(m), queries, count, read, next);
  const int64_t width = shared * m->head_dim;
  for (int64_t t = first; t < end; t++) {
    const float* from = outputs + (t - first) * width;
    for (int64_t i = 0; i < width; i += LANES)
      store_input(*(const floats*)(from + i), p->outputs, t * widest(m) + head * width + i, m->type);
  }
}

// The threads take heads in turns, so that each has a share of every row and knows what it will read next.
static void attend_all(const pass* p, int64_t layer) {
  const int64_t kv_heads = p->m->kv_heads, threads = omp_get_num_threads();
  for (int64_t item = omp_get_thread_num(); item < p->group_count * kv_heads; item += threads) {
    const history read = history_of(p, layer, item), next = history_of(p, layer, item + threads);
    attend_group(p, item / kv_heads, item % kv_heads, &read, &next);
  }
#pragma omp barrier
}

// Continues with the asked tokens only. In the last layer, the others are done when their keys and values are
// in the cache.
static void keep_asked(pass* p) {
  const model* m = p->m;
  const int64_t width = query_width(m) * input_bytes(m->type);
  if (p->b->asked_tokens < p->tokens) {
#pragma omp single
    for (int64_t i = 0; i < p->b->asked_tokens; i++) {
      const int64_t t = p->b->asked[i];
      memmove(p->hidden + i * m->hidden, p->hidden + t * m->hidden, m->hidden * 4);
      memmove(input_at(p->outputs, i * widest(m), m->type), input_at(p->outputs, t * widest(m), m->type),
              width);
    }
  }
  p->tokens = p->b->asked_tokens;
}

// --- the next tokens

#if HAS_SHORTLISTS

// Makes shortlists of the listed tokens from a thread's share of the head's panels.
static void shortlist_share(const pass* p) {
  const model* m = p->m;
  const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads(), all = panels_of(&m->head);
  const int64_t end = share_begin(all, thread + 1, threads);
  const int64_t listed = p->listed_count, tiles = (listed + TILE - 1) / TILE;
  const int64_t stride = rounded_bytes(m->hidden), steps = m->hidden / NEIGHBOURS;
  const linear* whole = &m->rounded_head.whole;
  shortlist* lists = p->lists + thread * p->b->asked_tokens;
  for (int64_t i = 0; i < listed; i++) {
    lists[i].least = -INFINITY;
    lists[i].count = 0;
  }
  for (int64_t j = share_begin(all, thread, threads); j < end; j++) {
    for (int64_t i = 0; i < tiles; i++) {
      const int64_t first = listed * i / tiles, count = listed * (i + 1) / tiles - first;
      const int is_fetched = tiles > 1 && j + 1 < end;
      const ahead next = part_of_panel(is_fetched ? whole : NULL, j + 1, i, tiles, steps, INT8);
      shortlist_panel(count, &m->rounded_head, j, p->numbers + first * stride, stride, p->rounded + first,
                      p->b->noises, p->listed + first, &next, lists + first);
    }
  }
#pragma omp barrier
}

// Finds the next tokens of most listed tokens without the head's product. The other listed tokens, and those
// that were not listed, are `open` after this.
static void answer_listed(pass* p) {
  const model* m = p->m;
  const batch* b = p->b;
  const int64_t width = widest(m), asked = b->asked_tokens;
#pragma omp for schedule(static)
  for (int64_t i = 0; i < p->listed_count; i++) {
    const void* from = input_at(p->inputs, p->listed[i] * width, m->type);
    p->rounded[i] = round_inputs(from, m->hidden, m->type, p->numbers + i * rounded_bytes(m->hidden));
  }
  shortlist_share(p);
#pragma omp for schedule(dynamic)
  for (int64_t i = 0; i < p->listed_count; i++) {
    const int64_t token = p->listed[i];
    for (int64_t thread = 1; thread < omp_get_num_threads(); thread++)
      join(&p->lists[i], &p->lists[thread * asked + i]);
    const void* from = input_at(p->inputs, token * width, m->type);
    b->best[token] = highest_of(&p->lists[i], &m->head, from, m->type, b->noises + token);
  }
#pragma omp single
  {
    int64_t open = 0;
    for (int64_t i = 0; i < asked; i++) {
      if (b->best[i] >= 0) continue;
      p->open[open++] = i;
      memmove(input_at(p->inputs, (open - 1) * width, m->type), input_at(p->inputs, i * width, m->type),
              m->hidden * input_bytes(m->type));
    }
    *b->answered = asked - open;
  }
  p->tokens = asked - *b->answered;
}

#else

static void answer_listed(pass* p) { (void)p; }  // Nothing is listed, see `shortlist_neighbours`.

#endif

// Chooses the best of all threads' candidates. Lower threads have lower ids, so ties go to the lowest id.
static void elect(const pass* p) {
#pragma omp for schedule(static)
  for (int64_t i = 0; i < p->tokens; i++) {
    candidate best = {-INFINITY, -1};
    for (int64_t thread = 0; thread < omp_get_num_threads(); thread++) {
      const candidate other = p->candidates[thread * p->b->asked_tokens + i];
      if (other.score > best.score || isnan(other.score)) best = other;
      if (isnan(best.score)) break;
    }
    p->b->best[p->open[i]] = isfinite(best.score) ? best.token : -1;
  }
}

void decode(const model* m, const layer* layers, const batch* b) {
  const pass shared = pass_of(m, b);
#pragma omp parallel num_threads(b->threads)
  {
    pass mine = shared, *p = &mine;
    candidate* candidates = p->candidates + omp_get_thread_num() * b->asked_tokens;
    for (int64_t i = 0; i < b->asked_tokens; i++) candidates[i] = (candidate){-INFINITY, -1};
    const product head = {&m->head, 1, NULL, CHOOSE, candidates, 0}, *end = p->listed_count ? NULL : &head;
    embed_all(p);
    product projection = {layers->projections, 3, NULL, WRITE, p->projected, projected_width(m)};
    for (int64_t i = 0; i < m->layers; i++) {
      const layer* l = &layers[i];
      const int is_last = i + 1 == m->layers;
      const product attended = {&l->attention_output, 1, NULL, ADD, p->hidden, m->hidden};
      const product up = {&l->up, 1, l->gate.out ? &l->gate : NULL, ACTIVATE, p->outputs, widest(m)};
      const product down = {&l->down, 1, NULL, ADD, p->hidden, m->hidden};
      norm_all(p, &l->attention_norm);
      multiply_share(p, &projection, &attended, p->inputs);
      place_all(p, l, i);
      attend_all(p, i);
      if (is_last) keep_asked(p);
      multiply_share(p, &attended, &up, p->outputs);
      norm_all(p, &l->mlp_norm);
      multiply_share(p, &up, &down, p->inputs);
      projection.layers = l[1].projections;
      multiply_share(p, &down, is_last ? end : &projection, p->outputs);
      if (omp_get_thread_num() == 0) ++*b->layers_done;
    }
    norm_all(p, &m->final_norm);
    if (p->listed_count) answer_listed(p);
    multiply_share(p, &head, NULL, p->inputs);
    elect(p);
  }
}

// Returns how many outputs a panel of weights has. The caller packs the weights.
int64_t panel_outputs(void) { return PANEL; }

// Returns how many inputs are side by side in the rounded weights for shortlists; 0 if there are no
// shortlists.
int64_t shortlist_neighbours(void) { return HAS_SHORTLISTS ? NEIGHBOURS : 0; }
