// Exact selection: the positions of the k highest scores of a row, ascending, ties to the lowest.
//
// One threadgroup per part of a row; all parts of a row but one only when a row is long, and then a
// second launch selects among what they found (CANDIDATES). A simdgroup owns a contiguous run of
// its part and reads it 32 neighbours at a time; a thread keeps its first ITEMS keys in registers.
// The k-th highest key is found bit by bit, by counting: no histogram whose bins would be contended
// (index scores share their leading bits, and the ReLU makes many of them equal). Then prefix sums
// in the order of positions give every selected one its place.

// A score as an integer of the same order; 0 for -inf and NaN, which are never selected.
inline uint order_key(float score) {
  uint bits = score == 0.0f ? 0u : as_type<uint>(score);  // -0 ties with 0
  uint key = bits ^ ((bits >> 31) ? 0xFFFFFFFFu : 0x80000000u);
  return score > -INFINITY ? key : 0u;
}

template <bool CANDIDATES, typename Positions>
int position_at(Positions positions, uint index) {
  return CANDIDATES ? int(positions[index]) : int(index);
}

// The key of element `index`, 0 from `end` on and where an earlier selection found nothing.
template <bool CANDIDATES, typename Scores, typename Positions>
uint key_at(Scores scores, Positions positions, uint index, uint end) {
  int position = index < end ? position_at<CANDIDATES>(positions, index) : -1;
  return position < 0 ? 0u : order_key(scores[position]);
}

// How many of a thread's keys are at least `key`; those beyond ITEMS are read again.
template <int ITEMS, bool CANDIDATES, typename Keys, typename Scores, typename Positions>
uint count_at_least(
    uint key, Keys keys, Scores scores, Positions positions, uint own, uint items, uint end) {
  uint count = 0;
#pragma unroll
  for (int item = 0; item < ITEMS; ++item) count += keys[item] >= key ? 1u : 0u;
  for (uint item = ITEMS; item < items; ++item) {
    count += key_at<CANDIDATES>(scores, positions, own + 32 * item, end) >= key ? 1u : 0u;
  }
  return count;
}

// Sum over the threadgroup, in every thread. `scratch` has a place for each of 32 simdgroups, of
// which `own` is the caller's, and may be used again after the next barrier.
template <typename Scratch>
uint block_count(uint count, Scratch scratch, uint own, uint simdgroups, uint lane) {
  count = simd_sum(count);
  if (lane == 0) scratch[own] = count;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return simd_sum(lane < simdgroups ? scratch[lane] : 0u);
}

// body
// scores [rows, T] float32; positions [rows, n] int32 with -1 for none where CANDIDATES, otherwise
// the scores once more, for their size. selected [rows, parts, k] int32.
threadgroup uint scratch[2 * 32];
uint lane = thread_index_in_simdgroup;
uint own_simdgroup = simdgroup_index_in_threadgroup;
uint threads = threads_per_threadgroup.x;
uint simdgroups = threads / 32;
uint parts = threadgroups_per_grid.y;
uint own_part = threadgroup_position_in_grid.y;
ulong row = threadgroup_position_in_grid.x;
uint n = positions_shape[1];
auto row_scores = scores + row * scores_shape[1];
auto row_positions = positions + row * n;
auto output = selected + (row * parts + own_part) * uint(k);
uint wanted = uint(k);

uint part = (n + parts - 1) / parts;
uint first = own_part * part;
uint end = min(n, first + part);
uint items = (part + threads - 1) / threads;
uint own = first + own_simdgroup * items * 32 + lane;  // a thread's elements: own, own + 32, ...
uint keys[ITEMS];
#pragma unroll
for (uint item = 0; item < ITEMS; ++item) {
  uint until = item < items ? end : 0;
  keys[item] = key_at<CANDIDATES>(row_scores, row_positions, own + 32 * item, until);
}

// The largest key that at least k elements reach; 0 where no more than k can be selected.
uint threshold = 0;
uint count = count_at_least<ITEMS, CANDIDATES>(
    1, keys, row_scores, row_positions, own, items, end);
count = block_count(count, scratch, own_simdgroup, simdgroups, lane);
bool search = count > wanted;
for (int bit = 31; bit >= 0 && search; --bit) {
  uint candidate = threshold | (1u << bit);
  count = count_at_least<ITEMS, CANDIDATES>(
      candidate, keys, row_scores, row_positions, own, items, end);
  // The halves of the scratch alternate, so one barrier per bit is enough.
  count = block_count(count, scratch + 32 * (bit % 2), own_simdgroup, simdgroups, lane);
  threshold = count >= wanted ? candidate : threshold;
  search = count != wanted;
}

// How many elements above the threshold, and how many at it, come before this simdgroup's run.
uint above = simd_sum(count_at_least<ITEMS, CANDIDATES>(
    threshold + 1, keys, row_scores, row_positions, own, items, end));
uint reached = simd_sum(count_at_least<ITEMS, CANDIDATES>(
    threshold, keys, row_scores, row_positions, own, items, end));
uint tied = threshold == 0 ? 0 : reached - above;
threadgroup_barrier(mem_flags::mem_threadgroup);
if (lane == 0) {
  scratch[own_simdgroup] = above;
  scratch[32 + own_simdgroup] = tied;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
above = lane < simdgroups ? scratch[lane] : 0;
tied = lane < simdgroups ? scratch[32 + lane] : 0;
uint above_before = simd_shuffle(simd_prefix_exclusive_sum(above), own_simdgroup);
uint tied_before = simd_shuffle(simd_prefix_exclusive_sum(tied), own_simdgroup);
above = simd_sum(above);
tied = min(simd_sum(tied), wanted - above);

for (uint item = 0; item < items; ++item) {
  uint index = own + 32 * item;
  uint key = key_at<CANDIDATES>(row_scores, row_positions, index, end);
  bool is_above = key > threshold;
  bool is_tied = key == threshold && threshold != 0;
  // Both counts of a simdgroup in one number: neither exceeds 32.
  uint both = (is_above ? 1u : 0u) | (is_tied ? 1u << 16 : 0u);
  uint before = simd_prefix_exclusive_sum(both);
  uint tied_rank = tied_before + (before >> 16);
  uint place = above_before + (before & 0xFFFF) + min(tied_rank, tied);
  if (is_above || (is_tied && tied_rank < tied)) {
    output[place] = position_at<CANDIDATES>(row_positions, index);
  }
  both = simd_sum(both);
  above_before += both & 0xFFFF;
  tied_before += both >> 16;
}
for (uint place = above + tied + thread_position_in_threadgroup.x; place < wanted;
     place += threads) {
  output[place] = -1;
}
