// The operations of a simdgroup. Every live lane deposits its value; the first that goes on computes
// the result of all of them.
#include <string.h>

#include "metalhost.h"

// The numbers are those of msl/simd.h, and the order that of report.py's OPERATIONS.
enum Operation {
  SUM = 1, PRODUCT, MIN, MAX, AND, OR, XOR,
  INCLUSIVE_SUM, EXCLUSIVE_SUM, INCLUSIVE_PRODUCT, EXCLUSIVE_PRODUCT,
  SHUFFLE, SHUFFLE_XOR, SHUFFLE_UP, SHUFFLE_DOWN, ROTATE_UP, ROTATE_DOWN,
  BROADCAST, BROADCAST_FIRST, BALLOT, MATRIX, MASK,
};

static float round_half(float x, u32 half) { return half ? (float)(_Float16)x : x; }

static float combine_f(float a, float b, u32 operation) {
  switch (operation) {
    case SUM: case INCLUSIVE_SUM: case EXCLUSIVE_SUM: return a + b;
    case PRODUCT: case INCLUSIVE_PRODUCT: case EXCLUSIVE_PRODUCT: return a * b;
    case MIN: return __builtin_fminf(a, b);
    default: return __builtin_fmaxf(a, b);
  }
}

static u64 combine_i(u64 a, u64 b, u32 operation, u32 is_signed) {
  bool less = is_signed ? (i64)a < (i64)b : a < b;
  switch (operation) {
    case SUM: case INCLUSIVE_SUM: case EXCLUSIVE_SUM: return a + b;
    case PRODUCT: case INCLUSIVE_PRODUCT: case EXCLUSIVE_PRODUCT: return a * b;
    case MIN: return less ? a : b;
    case MAX: return less ? b : a;
    case AND: return a & b;
    case OR: return a | b;
    default: return a ^ b;
  }
}

static float get_f(Slot s) {
  float f;
  memcpy(&f, &s.lo, 4);
  return f;
}

static Slot put_f(float f) {
  Slot s = {0, 0};
  memcpy(&s.lo, &f, 4);
  return s;
}

typedef struct { u32 operation, kind; bool is_float; } Fold;  // kind: half, or signed

static Slot fold(Slot a, Slot b, Fold f) {
  if (f.is_float) return put_f(round_half(combine_f(get_f(a), get_f(b), f.operation), f.kind));
  return (Slot){combine_i(a.lo, b.lo, f.operation, f.kind), 0};
}

// The ascending xor butterfly, as Apple GPUs lower simd_sum; lanes that are not there leave a value
// as it is.
static void butterfly(Exchange *e, Fold f) {
  u32 there = e->active;
  memcpy(e->out, e->in, sizeof e->out);
  for (u32 distance = 1; distance < LANES; distance *= 2) {
    Slot next[LANES];
    u32 next_there = 0;
    for (u32 i = 0; i < LANES; i++) {
      u32 j = i ^ distance;
      bool mine = there >> i & 1, theirs = there >> j & 1;
      next[i] = mine && theirs ? fold(e->out[i], e->out[j], f) : mine ? e->out[i] : e->out[j];
      next_there |= (u32)(mine || theirs) << i;
    }
    memcpy(e->out, next, sizeof next);
    there = next_there;
  }
}

static void scan(Exchange *e, Fold f) {
  bool product = f.operation >= INCLUSIVE_PRODUCT;
  bool exclusive = f.operation == EXCLUSIVE_SUM || f.operation == EXCLUSIVE_PRODUCT;
  Slot sum = f.is_float ? put_f(product) : (Slot){product, 0};
  for (u32 i = 0; i < LANES; i++) {
    if (!(e->active >> i & 1)) continue;
    if (exclusive) e->out[i] = sum;
    sum = fold(sum, e->in[i], f);
    if (!exclusive) e->out[i] = sum;
  }
}

static Slot reduce(Slot value, Fold f, u32 site) {
  Exchange *e = exchange(f.operation, site, 0, value);
  if (!e->computed) f.operation < INCLUSIVE_SUM ? butterfly(e, f) : scan(e, f);
  e->computed = true;
  return e->out[current->lane];
}

float mh_reduce_f(float value, u32 operation, u32 half, u32 site) {
  return get_f(reduce(put_f(value), (Fold){operation, half, true}, site));
}

u64 mh_reduce_i(u64 value, u32 operation, u32 is_signed, u32 site) {
  return reduce((Slot){value, 0}, (Fold){operation, is_signed, false}, site).lo;
}

u64 mh_ballot(u32 vote, u32 site) {
  Exchange *e = exchange(BALLOT, site, 0, (Slot){vote != 0, 0});
  u64 mask = 0;
  if (e->computed) return e->out[0].lo;
  for (u32 i = 0; i < LANES; i++)
    if (e->active >> i & 1) mask |= e->in[i].lo << i;
  e->computed = true;
  e->out[0].lo = mask;
  return mask;
}

u32 mh_active(u32 site) { return exchange(BALLOT, site, 0, (Slot){0, 0})->active; }

static void bad_argument(u32 operation, u32 site, i64 argument, const char *text) {
  error = (Error){.kind = SIMD_ARGUMENT, .operation = operation, .line = site,
                  .offset = (u64)argument, .text = text};
  fail();
}

static void need_same_argument(Exchange *e, u32 operation, u32 site) {
  if (e->computed) return;
  e->computed = true;
  i64 mine = e->argument[current->lane];
  for (u32 i = 0; i < LANES; i++)
    if (e->active >> i & 1 && e->argument[i] != mine)
      bad_argument(operation, site, e->argument[i], "differs between lanes");
}

// A warp function of CUDA: its mask must name the lanes that are there, and may name others.
void mh_warp_mask(u32 mask, u32 site) {
  u32 there = current->simd->count == LANES ? ~0u : (1u << current->simd->count) - 1;
  if ((mask & there) != there) bad_argument(MASK, site, mask, "leaves out lanes of the warp");
}

void mh_simdgroup_barrier(u32 flags, u32 site);
void mh_warp_barrier(u32 mask, u32 site) {
  mh_warp_mask(mask, site);
  mh_simdgroup_barrier(MEM_DEVICE | MEM_THREADGROUP, site);
}

Slot mh_shuffle(Slot value, u32 operation, i64 argument, u32 site) {
  Exchange *e = exchange(operation, site, argument, value);
  i64 lane = current->lane, from = argument;
  if (operation != SHUFFLE && operation != BROADCAST_FIRST) need_same_argument(e, operation, site);
  if (operation == SHUFFLE_XOR) from = lane ^ argument;
  if (operation == SHUFFLE_UP) from = lane < argument ? lane : lane - argument;
  if (operation == SHUFFLE_DOWN) from = lane + argument >= LANES ? lane : lane + argument;
  if (operation == ROTATE_UP) from = (lane - argument) & (LANES - 1);
  if (operation == ROTATE_DOWN) from = (lane + argument) & (LANES - 1);
  if (operation == BROADCAST_FIRST) from = __builtin_ctz(e->active);
  if (argument < 0 || argument >= LANES || from < 0 || from >= LANES)
    bad_argument(operation, site, argument, "is no lane");
  if (!(e->active >> from & 1)) bad_argument(operation, site, from, "is a lane that is not active");
  return e->in[from];
}

// Lane layout of an 8x8 matrix, as MLX's steel kernels document it: two neighbours of one row.
static u32 row_of(u32 lane) { return (lane / 4 & 4) + lane / 2 % 4; }
static u32 column_of(u32 lane) { return (lane / 4 & 2) * 2 + lane % 2 * 2; }

u32 mh_matrix_row(void) { return row_of(current->lane); }
u32 mh_matrix_column(void) { return column_of(current->lane); }

// This lane's two elements of A x B; `a` and `b` hold its two elements of each.
u64 mh_matrix_product(u64 a, u64 b, u32 site) {
  Exchange *e = exchange(MATRIX, site, 0, (Slot){a, b});
  if (e->active != ~0u) bad_argument(MATRIX, site, e->active, "is a lane that is not active");
  if (!e->computed) {
    float A[8][8], B[8][8], D[8][8] = {0};
    for (u32 i = 0; i < LANES; i++) {
      memcpy(&A[row_of(i)][column_of(i)], &e->in[i].lo, 8);
      memcpy(&B[row_of(i)][column_of(i)], &e->in[i].hi, 8);
    }
    for (int k = 0; k < 8; k++)
      for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++) D[i][j] += A[i][k] * B[k][j];
    for (u32 i = 0; i < LANES; i++) memcpy(&e->out[i].lo, &D[row_of(i)][column_of(i)], 8);
    e->computed = true;
  }
  return e->out[current->lane].lo;
}
