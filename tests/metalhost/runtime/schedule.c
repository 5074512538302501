// Runs threadgroups, simdgroups and lanes in a chosen order, from barrier to barrier. A lane runs
// until it waits; then the next lane of its simdgroup that can run does.
#include <string.h>

#include "metalhost.h"

enum { ASCENDING, DESCENDING, RANDOM };
enum { SIMDGROUP_BARRIER = 100 };

Group group;
Thread threads[MAX_THREADS];
Simd simds[MAX_THREADS / LANES];
Thread *current;
u32 now;
Error error;
u64 lane_switches, threads_started, most_barriers, most_accesses;

static u32 order_kind;
static u64 random_state;
static void (*kernel)(void);

static u64 random_next(void) {
  random_state += 0x9e3779b97f4a7c15ull;
  u64 z = random_state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

static void make_order(u32 *order, u32 count) {
  for (u32 i = 0; i < count; i++) order[i] = order_kind == DESCENDING ? count - 1 - i : i;
  if (order_kind != RANDOM) return;
  for (u32 i = count; i > 1; i--) {
    u32 j = random_next() % i, swap = order[i - 1];
    order[i - 1] = order[j], order[j] = swap;
  }
}

_Noreturn void fail(void) {
  error.thread = current->index;
  error.threadgroup = group.number;
  void *unused;
  fiber_switch(&unused, main_sp);
  __builtin_unreachable();
}

static void blame(u32 kind, Thread *one, Thread *other) {
  error.kind = kind;
  error.line = one->site, error.operation = one->operation;
  error.other_line = other->state == DONE ? 0 : other->site;
  error.other_operation = other->operation;
  error.other_thread = other->index, error.other_threadgroup = group.number;
  error.other_write = other->state;
  current = one;
}

static void resume_next(Thread *self) {
  Simd *simd = self->simd;
  lane_switches++;
  if (!simd->ready) {
    fiber_switch(&self->sp, main_sp);
    return;
  }
  Thread *next = &simd->threads[simd->order[__builtin_ctz(simd->ready)]];
  simd->ready &= simd->ready - 1;
  current = next;
  fiber_switch(&self->sp, next->sp);
}

static void release_simd(Simd *simd) {
  u32 active = 0;
  for (u32 i = 0; i < simd->count; i++) {
    Thread *thread = &simd->threads[i];
    if (thread->state != AT_SIMD) continue;
    active |= 1u << i;
    if (thread == current) continue;
    thread->state = READY;
    simd->ready |= 1u << thread->position;
  }
  simd->exchange[simd->parity].active = active;
  simd->exchange[simd->parity].computed = false;
  simd->parity ^= 1;
  simd->arrived = 0;
}

void wait_simd(u32 operation, u32 site) {
  Thread *self = current;
  Simd *simd = self->simd;
  check_pending();
  self->operation = operation, self->site = site, self->state = AT_SIMD;
  if (!simd->arrived) simd->first = self;
  if (simd->first->site != site || simd->first->operation != operation) {
    blame(SIMD_DIVERGENCE, self, simd->first);
    fail();
  }
  if (simd->live < simd->count) {  // a lane left: it would not take part
    for (u32 i = 0; i < simd->count; i++)
      if (simd->threads[i].state == DONE) blame(SIMD_DIVERGENCE, self, &simd->threads[i]);
    fail();
  }
  if (++simd->arrived == simd->live) release_simd(simd);
  else resume_next(self);
  self->state = READY;
}

Exchange *exchange(u32 operation, u32 site, i64 argument, Slot value) {
  Simd *simd = current->simd;
  Exchange *shared = &simd->exchange[simd->parity];
  shared->in[current->lane] = value;
  shared->argument[current->lane] = argument;
  wait_simd(operation, site);
  return shared;
}

static void order_memory(u32 flags, u32 *stamp) {
  if (flags & MEM_DEVICE) stamp[DEVICE] = now;
  if (flags & MEM_THREADGROUP) stamp[THREADGROUP] = now;
}

void mh_simdgroup_barrier(u32 flags, u32 site) {
  Simd *simd = current->simd;
  Exchange *shared = exchange(SIMDGROUP_BARRIER, site, flags, (Slot){0, 0});
  if (shared->computed) return;
  shared->computed = true;
  now++;
  for (u32 i = 0; i < simd->count; i++) {
    if (shared->active >> i & 1) continue;
    blame(BARRIER_DIVERGENCE, current, &simd->threads[i]);
    fail();
  }
  order_memory(flags, simd->stamp);
}

void mh_barrier(u32 flags, u32 site) {
  Thread *self = current;
  check_pending();
  self->state = AT_BARRIER;
  self->operation = SIMDGROUP_BARRIER + 1;
  self->site = site, self->flags = flags;
  group.at_barrier++;
  resume_next(self);
}

static void run_thread(void) {
  kernel();
  check_pending();
  Thread *self = current;
  self->state = DONE;
  if (self->accesses > most_accesses) most_accesses = self->accesses;
  self->simd->live--;
  for (;;) resume_next(self);
}

// Runs the lanes of one simdgroup until each waits at a threadgroup barrier or has finished.
static bool run_simd(Simd *simd) {
  if (simd->ready) {
    Thread *first = &simd->threads[simd->order[__builtin_ctz(simd->ready)]];
    simd->ready &= simd->ready - 1;
    current = first;
    fiber_switch(&main_sp, first->sp);
  }
  if (error.kind || !simd->arrived) return !error.kind;
  Thread *waiting = 0, *elsewhere = 0;
  for (u32 i = 0; i < simd->count; i++)
    *(simd->threads[i].state == AT_SIMD ? &waiting : &elsewhere) = &simd->threads[i];
  blame(SIMD_DIVERGENCE, waiting, elsewhere);
  error.thread = waiting->index, error.threadgroup = group.number;
  return false;
}

static bool all_at_one_barrier(void) {
  Thread *waiting = 0, *other = 0;
  for (u32 i = 0; i < group.threads; i++)
    if (threads[i].state == AT_BARRIER) waiting = &threads[i];
  for (u32 i = 0; i < group.threads; i++)
    if (threads[i].state != AT_BARRIER || threads[i].site != waiting->site ||
        threads[i].flags != waiting->flags)
      other = &threads[i];
  if (!other) return true;
  blame(BARRIER_DIVERGENCE, waiting, other);
  error.count = group.at_barrier, error.total = group.threads;
  error.thread = waiting->index, error.threadgroup = group.number;
  return false;
}

static void release_barrier(void) {
  now++, group.barriers++;
  order_memory(threads[0].flags, group.start);
  group.at_barrier = 0;
  for (u32 i = 0; i < group.simds; i++) {
    Simd *simd = &simds[i];
    order_memory(threads[0].flags, simd->stamp);
    simd->ready = simd->count == LANES ? ~0u : (1u << simd->count) - 1;
  }
  for (u32 i = 0; i < group.threads; i++) threads[i].state = READY;
}

static void start_group(u32 number) {
  group.number = number;
  group.index[0] = number % launch.groups[0];
  group.index[1] = number / launch.groups[0] % launch.groups[1];
  group.index[2] = number / launch.groups[0] / launch.groups[1];
  group.threads = 1;
  for (int d = 0; d < 3; d++) {
    u32 left = launch.grid[d] - group.index[d] * launch.group[d];
    group.size[d] = left < launch.group[d] ? left : launch.group[d];
    group.threads *= group.size[d];
  }
  group.simds = (group.threads + LANES - 1) / LANES;
  group.first_id = 1 + number * launch.group[0] * launch.group[1] * launch.group[2];
  group.at_barrier = group.barriers = 0;
  threads_started += group.threads;
  now++;
  group.start[DEVICE] = group.start[THREADGROUP] = now;
}

static void start_threads(void) {
  for (u32 s = 0; s < group.simds; s++) {
    Simd *simd = &simds[s];
    u32 left = group.threads - s * LANES;
    simd->threads = &threads[s * LANES], simd->index = s;
    simd->count = simd->live = left < LANES ? left : LANES;
    simd->arrived = simd->parity = 0;
    simd->ready = simd->count == LANES ? ~0u : (1u << simd->count) - 1;
    simd->stamp[DEVICE] = simd->stamp[THREADGROUP] = now;
    make_order(simd->order, simd->count);
    for (u32 p = 0; p < simd->count; p++) simd->threads[simd->order[p]].position = p;
  }
  for (u32 i = 0; i < group.threads; i++) {
    Thread *thread = &threads[i];
    thread->simd = &simds[i / LANES], thread->lane = i % LANES, thread->index = i;
    thread->accesses = 0;
    thread->state = READY, thread->site = thread->operation = 0;
    thread->x = i % group.size[0];
    thread->y = i / group.size[0] % group.size[1];
    thread->z = i / group.size[0] / group.size[1];
    thread->sp = fiber_prepare(i, run_thread);
  }
}

bool run_group(u32 number) {
  u32 order[MAX_THREADS / LANES];
  start_group(number);
  start_threads();
  check_group_start();
  for (;;) {
    make_order(order, group.simds);
    for (u32 i = 0; i < group.simds; i++)
      if (!run_simd(&simds[order[i]])) return false;
    if (!group.at_barrier) break;
    if (!all_at_one_barrier()) return false;
    release_barrier();
  }
  if (group.barriers > most_barriers) most_barriers = group.barriers;
  check_group_end();
  return !error.kind;
}

void schedule_start(void (*entry)(void), u32 order, u64 seed) {
  kernel = entry;
  order_kind = order, random_state = seed;
  now = 0;
  lane_switches = threads_started = most_barriers = most_accesses = 0;
}

static u32 coprime(u32 count) {
  for (;;) {
    u32 a = count, b = random_next() % count + 1, step = b;
    while (b) {
      u32 rest = a % b;
      a = b, b = rest;
    }
    if (a == 1) return step;
  }
}

// The i-th threadgroup to run. The random order is a permutation that needs no list: it steps by a
// number coprime to the count.
u32 group_at(u32 i, u32 count) {
  static u32 step, first;
  if (order_kind == ASCENDING) return i;
  if (order_kind == DESCENDING) return count - 1 - i;
  if (i == 0) step = coprime(count), first = random_next() % count;
  return (u32)((first + (u64)i * step) % count);
}
