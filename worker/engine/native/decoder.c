// A decoder-only transformer: from the embeddings of a batch of tokens to logits, in one call.
//
// Tokens of many sequences go through it together, whether they are the next tokens of running ones or
// prompts that join; each stands at its own position of its own row of the cache. Sums, norms and the
// residual stream are float32, also where weights and cache are bfloat16. See product.h for what a token's
// result depends on.
#include <omp.h>

#include "attention.h"
#include "elementwise.h"
#include "shortlist.h"

#ifdef __AVX512F__

// projections: to query, key and value side by side, by one layer or by three. gate: out = 0 where there is
// none.
typedef struct {
  norm attention_norm, query_norm, key_norm, mlp_norm;
  linear projections[3], attention_output, gate, up, down;
} layer;

// query_norm and key_norm are of each head, in layers that have them. scale: of a query.
typedef struct {
  int64_t layers, hidden, heads, kv_heads, head_dim, inner, is_bfloat16, is_rms, activation;
  float epsilon, scale;
  norm final_norm;
  linear head;
  rounded_weights rounded_head;
} model;

// A row of the cache: elements [layers][keys, values][kv_heads][room][head_dim].
typedef struct {
  char* states;
  int64_t room;
} row_states;

// cache: all rows, which have room for the tokens. rows, positions: of each token; tokens of one row stand
// side by side, in order. asked: the tokens whose next token is wanted, in order; best: that with the highest
// logit, of equals the lowest, or -1 where that is not finite; logit_rows: where its logits go, -1 where
// nobody wants them. may_shortlist: whether the head's product may be spared for those tokens by
// `rounded_head`; answered: for how many it was. cosines, sines: [tokens, head_dim], NULL where positions are
// in the embeddings. hidden: [tokens, hidden], float32, the embeddings; it is overwritten. scratch:
// `scratch_bytes` of it.
typedef struct {
  int64_t tokens, asked_tokens, threads, may_shortlist;
  const row_states* cache;
  const int32_t *rows, *positions, *asked, *logit_rows;
  const float *cosines, *sines;
  float *hidden, *logits;
  int64_t *best, *answered;
  char* scratch;
} batch;

// Elements from token to token: a line of the cache more than a power of two, or all would want the same
// place.
INLINED int64_t padded(int64_t width) { return (width + LANES - 1) / LANES * LANES + 2 * LANES; }

INLINED int64_t query_width(const model* m) { return m->heads * m->head_dim; }
INLINED int64_t kv_width(const model* m) { return m->kv_heads * m->head_dim; }
INLINED int64_t projected_width(const model* m) { return padded(query_width(m) + 2 * kv_width(m)); }
INLINED int64_t widest(const model* m) {
  const int64_t hidden = m->hidden > query_width(m) ? m->hidden : query_width(m);
  return padded(hidden > m->inner ? hidden : m->inner);
}

// The best logit of a thread's share, and its token.
typedef struct {
  float logit;
  int32_t token;
} candidate;

// A batch on its way through the model, and what lies in its scratch memory. tokens: those still on their
// way; in the end `open`, indices of `asked`.
typedef struct {
  const model* m;
  const batch* b;
  int64_t tokens;
  float* projected;       // [tokens][projected_width]: query, key, value
  void* inputs;           // elements [tokens][widest]: of the next product
  void* outputs;          // the same: of attention, or between the products of the MLP
  candidate* candidates;  // [threads][asked]
  int32_t* groups;        // first tokens of those that attend together, and the end
  int64_t group_count;
  int32_t* open;    // [asked]: those whose best token the head's product has to find
  int32_t* listed;  // [asked]: those who get a shortlist
  int64_t listed_count;
  rounded_inputs* rounded;  // [asked]: of those listed; the numbers are in `outputs`
  shortlist* lists;         // [threads][asked]: the same
} pass;

INLINED void* taken(uintptr_t* scratch, int64_t bytes) {
  void* from = (void*)*scratch;
  *scratch += (bytes + 63) / 64 * 64;
  return from;
}

// Lays a batch's scratch memory out. Returns where it ends.
static uintptr_t lay_out(pass* p, int64_t tokens, int64_t asked, int64_t threads, uintptr_t scratch) {
  p->projected = taken(&scratch, tokens * projected_width(p->m) * 4);
  p->inputs = taken(&scratch, tokens * widest(p->m) * 4);
  p->outputs = taken(&scratch, tokens * widest(p->m) * 4);
  p->candidates = taken(&scratch, threads * asked * (int64_t)sizeof *p->candidates);
  p->groups = taken(&scratch, (tokens + 1) * (int64_t)sizeof *p->groups);
  p->open = taken(&scratch, asked * (int64_t)sizeof *p->open);
  p->listed = taken(&scratch, asked * (int64_t)sizeof *p->listed);
  p->rounded = taken(&scratch, asked * (int64_t)sizeof *p->rounded);
  p->lists = taken(&scratch, threads * asked * (int64_t)sizeof *p->lists);
  return scratch;
}

int64_t scratch_bytes(const model* m, int64_t tokens, int64_t asked, int64_t threads) {
  pass p = {.m = m};
  return lay_out(&p, tokens, asked, threads, 0);
}

// Tokens of a row attend together, as many as their queries fit: keys and values are read once for them.
static int64_t group_tokens(const model* m, const batch* b, int32_t* groups) {
  const int64_t most = MAX_QUERIES / (m->heads / m->kv_heads);
  int64_t count = 0;
  for (int64_t t = 0; t < b->tokens; t++)
    if (t == 0 || b->rows[t] != b->rows[t - 1] || t - groups[count - 1] == most) groups[count++] = t;
  groups[count] = b->tokens;
  return count;
}

static pass pass_of(const model* m, const batch* b) {
  pass p = {.m = m, .b = b, .tokens = b->tokens};
  lay_out(&p, b->tokens, b->asked_tokens, b->threads, (uintptr_t)b->scratch);
  p.group_count = group_tokens(m, b, p.groups);
  for (int64_t i = 0; i < b->asked_tokens; i++) {
    p.open[i] = i;
    b->best[i] = -1;
    if (b->may_shortlist && b->logit_rows[i] < 0) p.listed[p.listed_count++] = i;
  }
  return p;
}

// --- the phases of a layer; the threads share each, and wait for each other at its end

static void norm_all(const pass* p, const norm* n) {
  const model* m = p->m;
#pragma omp for schedule(static)
  for (int64_t t = 0; t < p->tokens; t++) {
    float normed[m->hidden];
    normalize(p->b->hidden + t * m->hidden, n, m->hidden, m->is_rms, m->epsilon, normed);
    for (int64_t i = 0; i < m->hidden; i += LANES)
      store(*(floats*)(normed + i), p->inputs, t * widest(m) + i, m->is_bfloat16);
  }
}

typedef enum { WRITE, ADD, ACTIVATE, CHOOSE } ending;

// A product of tokens with linear layers that have the same inputs, their outputs side by side. They end in
// `to`, [tokens][stride]: float32, written or added; or, ACTIVATE, elements, times the gate's where there is
// a gate; or, CHOOSE, `to` are the thread's candidates.
typedef struct {
  const linear* layers;
  int64_t count;
  const linear* gate;
  ending end;
  void* to;
  int64_t stride;
} product;

// One of the panels of a product's layers, numbered through. column: of its first output.
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

// A thread's share of so many items.
INLINED int64_t share_begin(int64_t items, int64_t thread) { return items * thread / omp_get_num_threads(); }

// A vector of logits: whether they hold a better candidate. NaN is better than anything, and stays.
INLINED void choose(candidate* best, floats logits, int64_t count, int64_t first) {
  const __mmask16 mask = count < LANES ? (1 << count) - 1 : 0xffff,
                  nan = _mm512_mask_cmp_ps_mask(mask, (__m512)logits, (__m512)logits, _CMP_UNORD_Q);
  const float highest = nan ? NAN : _mm512_mask_reduce_max_ps(mask, (__m512)logits);
  if (!nan && !(highest > best->logit)) return;
  const __mmask16 equal = _mm512_mask_cmp_ps_mask(mask, (__m512)logits, _mm512_set1_ps(highest), _CMP_EQ_OQ);
  *best = (candidate){highest, first + __builtin_ctz(nan ? nan : equal)};
}

// Brings a tile of sums to what its product ends in.
INLINED void finish_tile(const pass* p, const product* x, const place* at, const float* sums,
                         const float* gates, int64_t first_token, int64_t tokens) {
  const model* m = p->m;
  const int64_t left = at->layer->out - at->index * PANEL, columns = left < PANEL ? left : PANEL;
  for (int64_t t = 0; t < tokens; t++) {
    for (int64_t c = 0; c < columns; c += LANES) {
      const int64_t token = first_token + t, column = at->column + c, to = token * x->stride + column;
      const __mmask16 mask = columns - c < LANES ? (1 << (columns - c)) - 1 : 0xffff;
      floats values = *(const floats*)(sums + t * PANEL + c);
      switch (x->end) {
        case ACTIVATE:  // Its room has place for whole vectors.
          if (gates) values *= activated(*(const floats*)(gates + t * PANEL + c), m->activation);
          if (!gates) values = activated(values, m->activation);
          store(values, x->to, to, m->is_bfloat16);
          break;
        case ADD: values += (floats)_mm512_maskz_loadu_ps(mask, (float*)x->to + to);  // fall through
        case WRITE: _mm512_mask_storeu_ps((float*)x->to + to, mask, (__m512)values); break;
        case CHOOSE:
          choose((candidate*)x->to + token, values, columns - c, column);
          const int64_t row = p->b->logit_rows[p->open[token]];
          if (row >= 0)
            _mm512_mask_storeu_ps(p->b->logits + row * m->head.out + column, mask, (__m512)values);
      }
    }
  }
}

// The part of a panel to fetch during one of so many tiles, which takes so many steps.
INLINED ahead part_of(const void* panel, int64_t bytes, int64_t tile, int64_t tiles, int64_t steps) {
  const int64_t lines = bytes / 64, part = (lines + tiles - 1) / tiles, left = lines - part * tile;
  return ahead_of((const char*)panel + part * tile * 64, left < part ? left : part, steps);
}

INLINED ahead part_of_panel(const linear* l, int64_t panel, int64_t tile, int64_t tiles, int64_t steps,
                            int64_t is_bfloat16) {
  if (!l) return (ahead){0};
  const int64_t bytes = panel_bytes(l, is_bfloat16);
  return part_of((const char*)l->panels + panel * bytes, bytes, tile, tiles, steps);
}

// Ask memory for where a tile of sums will end.
INLINED void fetch_end(const product* x, const place* at, int64_t first_token, int64_t tokens,
                       int64_t is_bfloat16) {
  if (x->end == CHOOSE) return;
  const int64_t bytes = x->end == ACTIVATE && is_bfloat16 ? 2 : 4;
  for (int64_t t = first_token; t < first_token + tokens; t++) {
    const char* to = (const char*)x->to + (t * x->stride + at->column) * bytes;
    for (int64_t line = 0; line < PANEL * bytes; line += 64) __builtin_prefetch(to + line, 1, 3);
  }
}

// A thread's share of a product. next: the product that comes after it, NULL for none. While all but a few
// tokens are multiplied memory has nothing else to do, so the next panel is fetched.
static void multiply_share(const pass* p, const product* x, const product* next, const void* inputs) {
  const int64_t thread = omp_get_thread_num(), all = all_panels(x), end = share_begin(all, thread + 1);
  const int64_t tiles = (p->tokens + TILE - 1) / TILE, width = widest(p->m), is_bfloat16 = p->m->is_bfloat16;
  float sums[TILE * PANEL], gates[TILE * PANEL];
  for (int64_t j = share_begin(all, thread); j < end; j++) {
    const place at = panel_at(x, j);
    const int64_t steps = at.layer->in / (is_bfloat16 ? 2 : 1);
    const product* following = j + 1 < end ? x : next;
    place then = {0};
    if (tiles > 1 && following)
      then = panel_at(following, following == x ? j + 1 : share_begin(all_panels(next), thread));
    for (int64_t i = 0; i < tiles; i++) {
      const int64_t first = p->tokens * i / tiles, count = p->tokens * (i + 1) / tiles - first;
      const void* from = element(inputs, first * width, is_bfloat16);
      fetch_end(x, &at, first, count, is_bfloat16);
      if (x->gate) {
        const linear* next_gate = then.layer ? following->gate : NULL;
        const ahead fetched = part_of_panel(next_gate, then.index, i, tiles, steps, is_bfloat16);
        multiply(count, x->gate, at.index, from, width, is_bfloat16, &fetched, gates);
      }
      const ahead fetched = part_of_panel(then.layer, then.index, i, tiles, steps, is_bfloat16);
      multiply(count, at.layer, at.index, from, width, is_bfloat16, &fetched, sums);
      finish_tile(p, x, &at, sums, x->gate ? gates : NULL, first, count);
    }
  }
#pragma omp barrier
}

// Where a token's keys (which = 0) or values (1) lie.
INLINED void* cached(const pass* p, int64_t layer, int64_t which, int64_t row, int64_t head,
                     int64_t position) {
  const row_states* r = &p->b->cache[row];
  const int64_t token = ((layer * 2 + which) * p->m->kv_heads + head) * r->room + position;
  return element(r->states, token * p->m->head_dim, p->m->is_bfloat16);
}

// Queries and keys get their norms and positions; keys and values go into the cache.
static void place_all(const pass* p, const layer* l, int64_t layer) {
  const model* m = p->m;
  const batch* b = p->b;
  const int64_t head_dim = m->head_dim;
#pragma omp for schedule(static)
  for (int64_t t = 0; t < p->tokens; t++) {
    float* heads = p->projected + t * projected_width(m);
    for (int64_t h = 0; h < m->heads + m->kv_heads; h++) {
      float* head = heads + h * head_dim;
      const norm* n = h < m->heads ? &l->query_norm : &l->key_norm;
      if (n->weight) normalize(head, n, head_dim, m->is_rms, m->epsilon, head);
      if (b->cosines) rotate(head, b->cosines + t * head_dim, b->sines + t * head_dim, head_dim);
    }
    for (int64_t i = 0; i < query_width(m); i += LANES) *(floats*)(heads + i) *= m->scale;
    const float *keys = heads + query_width(m), *values = keys + kv_width(m);
    for (int64_t h = 0; h < m->kv_heads; h++) {
      void* key = cached(p, layer, 0, b->rows[t], h, b->positions[t]);
      void* value = cached(p, layer, 1, b->rows[t], h, b->positions[t]);
      for (int64_t i = 0; i < head_dim; i += LANES) {
        store(*(const floats*)(keys + h * head_dim + i), key, i, m->is_bfloat16);
        store(*(const floats*)(values + h * head_dim + i), value, i, m->is_bfloat16);
      }
    }
  }
}

// What the tokens of a group read of a head; nothing behind the last.
static history history_of(const pass* p, int64_t layer, int64_t item) {
  const int64_t group = item / p->m->kv_heads, head = item % p->m->kv_heads;
  if (group >= p->group_count) return (history){0};
  const int64_t last = p->groups[group + 1] - 1, row = p->b->rows[last];
  return (history){cached(p, layer, 0, row, head, 0), cached(p, layer, 1, row, head, 0),
                   p->b->positions[last] + 1};
}

// The threads take heads in turns: each has its share of every row, and knows what it will read next.
static void attend_all(const pass* p, int64_t layer) {
  const model* m = p->m;
  const int64_t shared = m->heads / m->kv_heads, threads = omp_get_num_threads();
  for (int64_t item = omp_get_thread_num(); item < p->group_count * m->kv_heads; item += threads) {
    const history read = history_of(p, layer, item), next = history_of(p, layer, item + threads);
    const int64_t group = item / m->kv_heads, head = item % m->kv_heads;
    query queries[MAX_QUERIES];
    int64_t count = 0;
    for (int64_t t = p->groups[group]; t < p->groups[group + 1]; t++) {
      for (int64_t h = head * shared; h < (head + 1) * shared; h++) {
        const float* values = p->projected + t * projected_width(m) + h * m->head_dim;
        void* output = element(p->outputs, t * widest(m) + h * m->head_dim, m->is_bfloat16);
        queries[count++] = (query){values, p->b->positions[t] + 1, output};
      }
    }
    attend_together(m->head_dim, m->is_bfloat16, queries, count, &read, &next);
  }
#pragma omp barrier
}

// Only tokens that were asked about go on: in the last layer the others are done when their keys and values
// are in the cache.
static void keep_asked(pass* p) {
  const model* m = p->m;
  const int64_t width = query_width(m) * (m->is_bfloat16 ? 2 : 4);
  if (p->b->asked_tokens < p->tokens) {
#pragma omp single
    for (int64_t i = 0; i < p->b->asked_tokens; i++) {
      const int64_t t = p->b->asked[i];
      memmove(p->b->hidden + i * m->hidden, p->b->hidden + t * m->hidden, m->hidden * 4);
      memmove(element(p->outputs, i * widest(m), m->is_bfloat16),
              element(p->outputs, t * widest(m), m->is_bfloat16), width);
    }
  }
  p->tokens = p->b->asked_tokens;
}

// A thread's share of the head's panels: what they leave of the listed tokens' outputs.
static void shortlist_share(const pass* p, const uint8_t* inputs) {
  const model* m = p->m;
  const int64_t thread = omp_get_thread_num(), all = panels_of(&m->head), end = share_begin(all, thread + 1);
  const int64_t listed = p->listed_count, tiles = (listed + TILE - 1) / TILE, width = widest(m);
  const int64_t bytes = m->hidden * PANEL, steps = m->hidden / QUAD;
  shortlist* lists = p->lists + thread * p->b->asked_tokens;
  for (int64_t i = 0; i < listed; i++) {
    lists[i].least = -INFINITY;
    lists[i].count = 0;
  }
  for (int64_t j = share_begin(all, thread); j < end; j++) {
    for (int64_t i = 0; i < tiles; i++) {
      const int64_t first = listed * i / tiles, count = listed * (i + 1) / tiles - first;
      const int8_t* following = m->rounded_head.panels + (j + 1) * bytes;
      const int is_fetched = tiles > 1 && j + 1 < end;
      const ahead next = is_fetched ? part_of(following, bytes, i, tiles, steps) : (ahead){0};
      shortlist_panel(count, &m->head, &m->rounded_head, j, inputs + first * width, width, p->rounded + first,
                      &next, lists + first);
    }
  }
#pragma omp barrier
}

// Finds the best of the listed tokens, of most without the head's product. The others stay, and those that
// were not listed.
static void answer_listed(pass* p) {
  const model* m = p->m;
  const batch* b = p->b;
  const int64_t width = widest(m), is_bfloat16 = m->is_bfloat16, asked = b->asked_tokens;
  uint8_t* inputs = p->outputs;
#pragma omp for schedule(static)
  for (int64_t i = 0; i < p->listed_count; i++) {
    const void* from = element(p->inputs, p->listed[i] * width, is_bfloat16);
    p->rounded[i] = round_inputs(from, m->hidden, is_bfloat16, inputs + i * width);
  }
  shortlist_share(p, inputs);
#pragma omp for schedule(dynamic)
  for (int64_t i = 0; i < p->listed_count; i++) {
    const int64_t token = p->listed[i];
    for (int64_t thread = 1; thread < omp_get_num_threads(); thread++)
      join(&p->lists[i], &p->lists[thread * asked + i]);
    const void* from = element(p->inputs, token * width, is_bfloat16);
    b->best[token] = highest_of(&p->lists[i], &m->head, from, is_bfloat16);
  }
#pragma omp single
  {
    int64_t open = 0;
    for (int64_t i = 0; i < asked; i++) {
      if (b->best[i] >= 0) continue;
      p->open[open++] = i;
      memmove(element(p->inputs, (open - 1) * width, is_bfloat16), element(p->inputs, i * width, is_bfloat16),
              m->hidden * (is_bfloat16 ? 2 : 4));
    }
    *b->answered = asked - open;
  }
  p->tokens = asked - *b->answered;
}

// The best of all threads' candidates. The first threads have the lower tokens.
static void elect(const pass* p) {
#pragma omp for schedule(static)
  for (int64_t i = 0; i < p->tokens; i++) {
    candidate best = {-INFINITY, -1};
    for (int64_t thread = 0; thread < omp_get_num_threads(); thread++) {
      const candidate other = p->candidates[thread * p->b->asked_tokens + i];
      if (other.logit > best.logit || isnan(other.logit)) best = other;
      if (isnan(best.logit)) break;
    }
    p->b->best[p->open[i]] = isfinite(best.logit) ? best.token : -1;
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
    product projection = {layers->projections, 3, NULL, WRITE, p->projected, projected_width(m)};
    for (int64_t i = 0; i < m->layers; i++) {
      const layer* l = &layers[i];
      const int is_last = i + 1 == m->layers;
      const product attended = {&l->attention_output, 1, NULL, ADD, b->hidden, m->hidden};
      const product up = {&l->up, 1, l->gate.out ? &l->gate : NULL, ACTIVATE, p->outputs, widest(m)};
      const product down = {&l->down, 1, NULL, ADD, b->hidden, m->hidden};
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
    }
    norm_all(p, &m->final_norm);
    if (p->listed_count) answer_listed(p);
    multiply_share(p, &head, NULL, p->inputs);
    elect(p);
  }
}

// Whether this processor computes in float32 and in bfloat16 as it is done here; a processor with a unit for
// whole matrices does it faster by oneDNN.
int64_t takes(int64_t is_bfloat16) {
#if defined(__AMX_BF16__)
  return !is_bfloat16;
#elif defined(__AVX512BF16__)
  return (void)is_bfloat16, 1;
#else
  return !is_bfloat16;
#endif
}

// Whether it has the instruction for products of whole numbers.
int64_t makes_shortlists(void) {
#ifdef __AVX512VNNI__
  return 1;
#else
  return 0;
#endif
}

#else

int64_t makes_shortlists(void) { return 0; }

int64_t takes(int64_t is_bfloat16) { return (void)is_bfloat16, 0; }

#endif
