// What Python calls, and what a text asks about its place in the launch.
#include <string.h>
#include <xmmintrin.h>

#include "metalhost.h"

enum { FLUSH_RESULTS = 0x8000, FLUSH_OPERANDS = 0x40 };  // of MXCSR

Launch launch;

int mh_launch(void (*entry)(void), const u32 *shape, u64 low, u64 high, const Variable *variables,
              u32 variable_count, u32 order, u64 seed, u32 checked, u32 flushed, u32 seconds) {
  memset(&error, 0, sizeof error);
  schedule_start(entry, order, seed);
  launch.checked = checked, launch.flushed = flushed, launch.seconds = seconds;
  launch.module_low = low, launch.module_high = high;
  launch.variables = variables, launch.variable_count = variable_count;
  for (int d = 0; d < 3; d++) {
    launch.grid[d] = shape[d], launch.group[d] = shape[3 + d];
    launch.groups[d] = (shape[d] + shape[3 + d] - 1) / shape[3 + d];
  }
  if (!fiber_stacks(MAX_THREADS)) return error.kind = UNSUPPORTED, error.text = "no memory", 1;
  check_start();
  u32 count = launch.groups[0] * launch.groups[1] * launch.groups[2];
  u32 arithmetic = _mm_getcsr();
  fiber_signals(true);
  if (launch.flushed) _mm_setcsr(arithmetic | FLUSH_RESULTS | FLUSH_OPERANDS);
  for (u32 i = 0; i < count && !error.kind; i++) run_group(group_at(i, count));
  _mm_setcsr(arithmetic);
  fiber_signals(false);
  if (!error.kind) check_outputs();
  return error.kind != NO_ERROR;
}

const Error *mh_error(void) { return &error; }

void mh_counts(u64 *counts) {
  counts[0] = checked_accesses, counts[1] = records_checked, counts[2] = lane_switches;
  counts[3] = threads_started, counts[4] = same_value_stores;
  counts[5] = most_barriers, counts[6] = most_accesses;
}

// Values of the attributes; the numbers are those of text.py.
u32 mh_attribute(u32 which, u32 d) {
  u32 in_group[3] = {current->x, current->y, current->z};
  switch (which) {
    case 0: return group.index[d] * launch.group[d] + in_group[d];
    case 1: return in_group[d];
    case 2: return group.index[d];
    case 3: return launch.groups[d];
    case 4: return launch.grid[d];
    case 5: return group.size[d];
    case 6: return launch.group[d];
    case 7: return current->index;
    case 8: return current->lane;
    case 9: return current->simd->index;
    case 10: return group.simds;
    case 11: return (launch.group[0] * launch.group[1] * launch.group[2] + LANES - 1) / LANES;
    case 12: return LANES;
    case 13: return current->index % 4;
    case 14: return current->index / 4;
    case 15: return (group.threads + 3) / 4;
    case 16: return (launch.group[0] * launch.group[1] * launch.group[2] + 3) / 4;
    default: return 0;  // grid_origin
  }
}
