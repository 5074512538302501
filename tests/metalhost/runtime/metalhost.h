// What the parts of the runtime share: threads, simdgroups, memory regions and the error that ends a
// launch. One operating-system thread runs everything, so nothing here is atomic.
#pragma once
#include <stdbool.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t i64;

enum { LANES = 32, MAX_THREADS = 1024, MAX_BUFFERS = 128, RED_ZONE = 256 };
enum { MEM_DEVICE = 1, MEM_THREADGROUP = 2 };  // values of mem_flags
enum Class { DEVICE, THREADGROUP, CLASSES };
enum State { READY, AT_SIMD, AT_BARRIER, DONE };

// The order of this list is that of report.py's KINDS.
enum Kind {
  NO_ERROR, OUT_OF_BOUNDS, UNINITIALISED, RACE, WRITE_TO_INPUT, MISALIGNED, BARRIER_DIVERGENCE,
  SIMD_DIVERGENCE, SIMD_ARGUMENT, UNWRITTEN_OUTPUT, OVERRUN, FAULT, DIVISION, INDEX, UNSUPPORTED, ENDLESS,
};

typedef struct {
  u32 kind;
  u32 thread, threadgroup;              // who
  u32 other_thread, other_threadgroup;  // with whom, for a race or a divergence
  u32 line, other_line;                 // source lines where a site is known instead of an address
  u64 pc, other_pc;
  u64 address, size, offset, length;
  i64 region;                           // buffer number, or 1000 + number of a threadgroup variable
  u32 write, other_write, atomic, other_atomic;
  u32 count, total;
  u32 operation, other_operation;
  const char *text;
} Error;

typedef struct { u64 lo, hi; } Slot;  // what one lane hands to the others

typedef struct {
  Slot in[LANES], out[LANES];
  i64 argument[LANES];
  u32 active;
  bool computed;
} Exchange;

typedef struct Simd Simd;

typedef struct {
  void *sp;
  Simd *simd;
  u32 state, index, lane, position;
  u32 site, operation, flags;
  u32 x, y, z;
  u64 accesses;
} Thread;

struct Simd {
  Thread *threads;
  u32 index, count, live, arrived;
  u32 ready;             // bit p: the lane at position p of the order may run
  u32 order[LANES];      // position -> lane
  u32 flags;             // of the simdgroup_barrier being waited for
  u32 stamp[CLASSES];    // time of the last barrier that ordered this simdgroup's memory
  u32 parity;
  Thread *first;         // of those that wait for a simdgroup operation
  Exchange exchange[2];
};

typedef struct {
  u64 address, size;
} Variable;

// The last accesses of a word: by whom, at what time, and by which instruction.
typedef struct { u32 writer, written, write_pc, reader, read, read_pc; } Record;

typedef struct {
  u64 base, size, map, map_size;
  bool writable, initialised;
  Record *records;  // of outputs, in checked mode
  u8 *state;        // per word: bits 0-3 the bytes that were written
} Buffer;

// Buffers lie 64 GB apart, so that no wrong index can reach another one.
#define FIRST_BUFFER 0x200000000000ull
enum { SPACING = 36 };

// The threadgroup that runs.
typedef struct {
  u32 index[3], size[3], threads, simds, number;
  u32 first_id;          // id of its thread 0 in records of accesses; ids start at 1
  u32 start[CLASSES];    // time of the last threadgroup barrier
  u32 at_barrier;
  u64 barriers;
} Group;

typedef struct {
  u32 grid[3], group[3], groups[3];
  bool checked;
  bool flushed;  // whether subnormal numbers are zero, as on GPUs
  u32 seconds;  // of CPU time, after which a launch is given up
  u64 module_low, module_high;
  const Variable *variables;
  u32 variable_count;
} Launch;

// None of these names may meet one of the C library's, such as `error`.
#pragma GCC visibility push(hidden)
extern Launch launch;
extern Group group;
extern Thread threads[MAX_THREADS];
extern Simd simds[MAX_THREADS / LANES];
extern Thread *current;
extern u32 now;          // counts barriers: the stamps of accesses
extern Error error;
extern void *main_sp;
extern u64 stack_low, stack_high;
extern Buffer buffers[MAX_BUFFERS];
extern u64 same_value_stores, checked_accesses, records_checked, lane_switches, threads_started;
extern u64 most_barriers, most_accesses;

// fiber.c
void fiber_switch(void **save, void *to);
void *fiber_prepare(u32 index, void (*run)(void));
bool fiber_stacks(u32 count);
void fiber_signals(bool install);

// schedule.c
_Noreturn void fail(void);
void wait_simd(u32 operation, u32 site);
Exchange *exchange(u32 operation, u32 site, i64 argument, Slot value);
bool run_group(u32 number);
void schedule_start(void (*entry)(void), u32 order, u64 seed);
u32 group_at(u32 i, u32 count);

// memory.c
void check_outputs(void);

// check.c
void check_start(void);
void check_group_start(void);
void check_group_end(void);
void check_pending(void);
void check_misaligned(u64 address, u32 size, u32 line, u64 pc);
void check_access(u64 address, u32 size, bool write, bool read, bool atomic, u64 pc, bool aligned);
#pragma GCC visibility pop
