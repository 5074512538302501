// Exact selection: the positions of the k highest scores of a row, ascending, ties to the lowest.
//
// One threadgroup per part of a row; all parts of a row but one only when a row is long, and then a
// second launch selects among what they found (CANDIDATES). A simdgroup owns a contiguous run of
// its part and reads it 32 neighbours at a time; a thread keeps its first ITEMS keys in registers.
// The k-th highest key is found by 8-bit digits from the top: a round counts the digits of the keys
// that share what is found so far. Index scores share their leading bits, and the ReLU makes many of
// them equal, so a thread counts a run of equal digits at once. Then prefix sums in the order of
// positions give every selected one its place.

constant constexpr uint DIGIT_BITS = 8;
constant constexpr uint BINS = 256;
constant constexpr uint LANE_BINS = BINS / 32;
constant constexpr uint NO_BIN = BINS;
constant constexpr int ROUNDS = 4;

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

// Keys of one thread with the same digit, one after the other.
struct Run {
  uint bin, count;
};

template <typename Bins>
void add_run(Run run, Bins bins) {
  if (run.count > 0) atomic_fetch_add_explicit(&bins[run.bin], run.count, memory_order_relaxed);
}

// The run with one more key, or a new one of it. A key that has not the digits found so far above
// `shift + 8` takes no part, nor does 0. The highest digit is the first of lane 0's bins, which lie
// 32 words apart, so that lanes read theirs from all banks.
template <typename Bins>
Run extended_run(Run run, uint key, uint found, uint shift, Bins bins) {
  if (key == 0 || (key ^ found) >> shift >> DIGIT_BITS != 0) return run;
  uint from_top = BINS - 1 - (key >> shift) % BINS;
  uint bin = from_top % LANE_BINS * 32 + from_top / LANE_BINS;
  if (bin != run.bin) {
    add_run(run, bins);
    run.bin = bin;
    run.count = 0;
  }
  run.count += 1;
  return run;
}

// The digit at which the count from the top reaches what is wanted: how many keys are above it, and
// at it. All 0 where there are not so many keys.
struct Digit {
  uint value, above, at;
};

template <typename Bins>
Digit digit_of(Bins bins, uint wanted, uint lane) {
  uint counts[LANE_BINS], sum = 0;
#pragma unroll
  for (uint i = 0; i < LANE_BINS; ++i) {
    counts[i] = atomic_load_explicit(&bins[32 * i + lane], memory_order_relaxed);
    sum += counts[i];
  }
  uint above = simd_prefix_exclusive_sum(sum);
  Digit own = {0, 0, 0};
#pragma unroll
  for (uint i = 0; i < LANE_BINS; ++i) {
    if (above < wanted && wanted <= above + counts[i]) {  // in one lane at most
      own.value = BINS - 1 - (LANE_BINS * lane + i);
      own.above = above;
      own.at = counts[i];
    }
    above += counts[i];
  }
  uint owner = simd_max(own.at > 0 ? lane : 0u);
  own.value = simd_shuffle(own.value, owner);
  own.above = simd_shuffle(own.above, owner);
  own.at = simd_shuffle(own.at, owner);
  return own;
}

// Of selected elements: those above the threshold and those at it.
struct Tally {
  uint above, tied;
};

// 0 is no key, so it is never tied.
inline Tally with_key(Tally tally, uint key, uint threshold) {
  tally.above += key > threshold ? 1u : 0u;
  tally.tied += key == threshold && threshold != 0 ? 1u : 0u;
  return tally;
}

// Write 32 neighbours of a simdgroup that are selected: all above the threshold, and those at it
// that come before `ties` others. `before` has the elements in front of them.
template <bool CANDIDATES, typename Positions, typename Output>
Tally placed(
    Tally before, uint key, uint index, uint threshold, uint ties, Positions positions,
    Output output) {
  Tally none = {0, 0}, own = with_key(none, key, threshold);
  // Both counts of a simdgroup in one number: neither exceeds 32.
  uint both = own.above | own.tied << 16;
  uint earlier = simd_prefix_exclusive_sum(both);
  uint tied_rank = before.tied + (earlier >> 16);
  uint place = before.above + (earlier & 0xFFFF) + min(tied_rank, ties);
  if (own.above > 0 || (own.tied > 0 && tied_rank < ties)) {
    output[place] = position_at<CANDIDATES>(positions, index);
  }
  both = simd_sum(both);
  before.above += both & 0xFFFF;
  before.tied += both >> 16;
  return before;
}

// body
// scores [rows, T] float32; positions [rows, n] int32 with -1 for none where CANDIDATES, otherwise
// the scores once more, for their size. selected [rows, parts, k] int32.
threadgroup atomic_uint bins[ROUNDS * BINS];
threadgroup uint above_of[32], tied_of[32];  // simdgroups
uint lane = thread_index_in_simdgroup;
uint thread_index = thread_position_in_threadgroup.x;
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
for (uint bin = thread_index; bin < ROUNDS * BINS; bin += threads) {
  atomic_store_explicit(&bins[bin], 0u, memory_order_relaxed);
}
threadgroup_barrier(mem_flags::mem_threadgroup);

// The largest key that at least k elements reach; 0 where fewer than k can be selected. A round has
// bins of its own, so one barrier is enough. Where all keys at a digit are wanted, so are all that
// begin with it.
uint threshold = 0, missing = wanted;
for (int round = 0; round < ROUNDS; ++round) {
  uint shift = DIGIT_BITS * (ROUNDS - 1 - round);
  auto own_bins = bins + BINS * round;
  Run run = {NO_BIN, 0};
#pragma unroll
  for (int item = 0; item < ITEMS; ++item) {
    run = extended_run(run, keys[item], threshold, shift, own_bins);
  }
  for (uint item = ITEMS; item < items; ++item) {
    uint key = key_at<CANDIDATES>(row_scores, row_positions, own + 32 * item, end);
    run = extended_run(run, key, threshold, shift, own_bins);
  }
  add_run(run, own_bins);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  Digit digit = digit_of(own_bins, missing, lane);
  threshold |= digit.value << shift;
  missing -= digit.above;
  if (digit.at <= missing) break;
}

// How many elements above the threshold, and how many at it, come before this simdgroup's run.
Tally tally = {0, 0};
#pragma unroll
for (int item = 0; item < ITEMS; ++item) tally = with_key(tally, keys[item], threshold);
for (uint item = ITEMS; item < items; ++item) {
  uint key = key_at<CANDIDATES>(row_scores, row_positions, own + 32 * item, end);
  tally = with_key(tally, key, threshold);
}
uint above = simd_sum(tally.above), tied = simd_sum(tally.tied);
if (lane == 0) {
  above_of[own_simdgroup] = above;
  tied_of[own_simdgroup] = tied;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
above = lane < simdgroups ? above_of[lane] : 0;
tied = lane < simdgroups ? tied_of[lane] : 0;
Tally before;
before.above = simd_shuffle(simd_prefix_exclusive_sum(above), own_simdgroup);
before.tied = simd_shuffle(simd_prefix_exclusive_sum(tied), own_simdgroup);
above = simd_sum(above);
tied = min(simd_sum(tied), wanted - above);

#pragma unroll
for (uint item = 0; item < ITEMS; ++item) {
  if (item < items) {
    before = placed<CANDIDATES>(
        before, keys[item], own + 32 * item, threshold, tied, row_positions, output);
  }
}
for (uint item = ITEMS; item < items; ++item) {
  uint index = own + 32 * item;
  uint key = key_at<CANDIDATES>(row_scores, row_positions, index, end);
  before = placed<CANDIDATES>(before, key, index, threshold, tied, row_positions, output);
}
for (uint place = above + tied + thread_index; place < wanted; place += threads) {
  output[place] = -1;
}
