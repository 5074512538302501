#include "common.metal"
#include "formats.metal"
#include "lanes.metal"

// Windows of token rows become entries: pooled channel by channel, normed, rotated, rounded, stored.

// Softmax of a channel's slots that have been seen: the largest score, the weights' sum and the
// weighted values' sum, both relative to it.
struct Pooled {
  float top, total, value;
};

// What a weight is relative to: nothing seen and scores of -inf weigh 0, not NaN.
float finite_top(float top) { return top == -INFINITY ? 0.0f : top; }

Pooled joined(Pooled a, Pooled b) {
  Pooled both;
  both.top = precise::max(a.top, b.top);
  float top = finite_top(both.top);
  float left = precise::exp(a.top - top), right = precise::exp(b.top - top);
  both.total = a.total * left + b.total * right;
  both.value = a.value * left + b.value * right;
  return both;
}

// COUNT slots at once, whose loads do not wait for each other's weights.
template <uint COUNT, typename Scores, typename Values>
Pooled pooled(Pooled before, Scores scores, Values values) {
  Pooled after;
  after.top = before.top;
#pragma unroll
  for (uint i = 0; i < COUNT; i++) after.top = precise::max(after.top, scores[i]);
  float top = finite_top(after.top), kept = precise::exp(before.top - top);
  after.total = before.total * kept;
  after.value = before.value * kept;
#pragma unroll
  for (uint i = 0; i < COUNT; i++) {
    float weight = precise::exp(scores[i] - top);
    after.total += weight;
    after.value += weight * values[i];
  }
  return after;
}

// body
// rows [B, n, C], bias [RATIO, LANES D] -> entries [B, T, ...]. A threadgroup has one window: GROUPS
// groups of MEMBERS threads, each thread a pair of channels and SLOTS / GROUPS of the window's slots.
// The first group joins the groups' results and finishes the entry.
// Two LANES: a window pools the previous one's first D channels and its own last D.
constexpr uint SLOTS = LANES * RATIO;
constexpr uint SHARE = SLOTS / GROUPS;
constexpr uint CHUNK = SHARE < 8 ? SHARE : 8;
threadgroup float partial[GROUPS > 1 ? 6 * GROUPS * MEMBERS : 1];
threadgroup float sums[32];
threadgroup float entry[INDEX ? D : 1];
uint thread_index = thread_position_in_threadgroup.x;
uint member = thread_index % MEMBERS, group = thread_index / MEMBERS;
uint dim = 2 * member;
bool exists = dim < D;
int window = first_window + int(threadgroup_position_in_grid.x);
int n = rows_shape[1], columns = rows_shape[2];
auto own = rows + size_t(threadgroup_position_in_grid.y) * n * columns;

// The window's own slots come last. Rows lie in a ring: that of position p at (p - origin) mod n.
constexpr uint EARLIER = SLOTS - RATIO;
int start = (window * RATIO - origin) % n;
start += start < 0 ? n : 0;
Pooled even = {-INFINITY, 0.0f, 0.0f}, odd = {-INFINITY, 0.0f, 0.0f};
for (uint chunk = 0; chunk < SHARE; chunk += CHUNK) {
  float scores[2][CHUNK], values[2][CHUNK];
#pragma unroll
  for (uint i = 0; i < CHUNK; i++) {
    uint slot = group * SHARE + chunk + i;
    bool present = exists && chunk + i < SHARE && (window > 0 || slot >= EARLIER);
    int at = start + int(slot) - int(EARLIER);
    at += at < 0 ? n : at >= n ? -n : 0;
    uint channel = EARLIER > 0 && slot >= EARLIER ? D + dim : dim;
    auto token = own + size_t(at) * columns;
    auto slot_bias = bias + slot % RATIO * (LANES * D) + channel;
#pragma unroll
    for (uint c = 0; c < 2; c++) {
      scores[c][i] = present ? token[gate_column + channel + c] + slot_bias[c] : -INFINITY;
      values[c][i] = present ? token[kv_column + channel + c] : 0.0f;
    }
  }
  even = pooled<CHUNK>(even, scores[0], values[0]);
  odd = pooled<CHUNK>(odd, scores[1], values[1]);
}

if (GROUPS > 1) {
  constexpr uint ALL = GROUPS * MEMBERS;
  auto place = partial + thread_index;
  place[0] = even.top;
  place[ALL] = even.total;
  place[2 * ALL] = even.value;
  place[3 * ALL] = odd.top;
  place[4 * ALL] = odd.total;
  place[5 * ALL] = odd.value;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (group == 0) {
    for (uint g = 1; g < GROUPS; g++) {
      auto other = partial + g * MEMBERS + member;
      Pooled other_even = {other[0], other[ALL], other[2 * ALL]};
      Pooled other_odd = {other[3 * ALL], other[4 * ALL], other[5 * ALL]};
      even = joined(even, other_even);
      odd = joined(odd, other_odd);
    }
  }
}

exists = exists && group == 0;
float a = exists ? even.value / even.total : 0.0f;
float b = exists ? odd.value / odd.total : 0.0f;
float squares = block_sum(a * a + b * b, sums, thread_index, GROUPS * MEMBERS);
float factor = precise::rsqrt(squares / D + eps);
if (exists) {
  a = a * factor * float(norm_weight[dim]);
  b = b * factor * float(norm_weight[dim + 1]);
}
uint P = cos_shape[1], plain = D - 2 * P;
if (exists && dim >= plain) {
  uint at = threadgroup_position_in_grid.x * P + (dim - plain) / 2;
  float c = cos[at], s = sin[at], x = a, y = b;
  a = x * c - y * s;
  b = x * s + y * c;
}
size_t nth = size_t(threadgroup_position_in_grid.y) * cos_shape[0] + threadgroup_position_in_grid.x;
auto stored =
    entries + nth * (INDEX ? key_elements<Stored>(D) : latent_elements<Stored>(D, 2 * P));
if (INDEX) {
  // One simdgroup transforms the key, from registers that hold every 32nd dim.
  if (exists) {
    entry[dim] = a;
    entry[dim + 1] = b;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (thread_index < 32) {
    float key[(D + 31) / 32];
#pragma unroll
    for (uint j = 0; j < (D + 31) / 32; j++) {
      key[j] = thread_index + 32 * j < D ? entry[thread_index + 32 * j] : 0.0f;
    }
    hadamard_fp4_lanes<D>(key, thread_index);
    store_key_lanes<D, Stored>(stored, key, thread_index);
  }
} else {
  finish_latent_pair<ROUNDS, Stored>(stored, exists, dim, D, 2 * P, a, b);
}
