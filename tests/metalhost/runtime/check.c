// What every access is checked for: bounds, alignment, initialised bytes, and races.
//
// Each 4-byte word of an output and of threadgroup memory has a record of its last writer and last
// readers, with the time (the stamp) of the last barrier they had passed. A word that threads touch
// byte by byte is split into four records. Two accesses are ordered when a barrier lies between
// them: the earlier stamp is then below the time of the later thread's last barrier.
#include <stdlib.h>
#include <string.h>

#include "metalhost.h"

// Ids of threads carry two flags: how wide a set of threads they stand for, and "by atomics only".
enum { ONE = 0u, IN_SIMD = 1u << 30, IN_GROUP = 2u << 30, ATOMIC = 1u << 29 };
#define IN_GRID (3u << 30)
#define WIDTH (3u << 30)
#define ID (ATOMIC - 1)
#define SPLIT 0xFFFFFFFFu  // as reader: the word has four records, at `splits[writer]`

typedef struct { Record byte[4]; } Four;

static u64 group_low, group_high;  // threadgroup memory with its red zones
static Record *group_records;
static u8 *group_state;  // bits 0-3 the bytes that were written, bits 4-7 those that exist
static struct { Four *items; u32 count, room; } splits[CLASSES];
u64 same_value_stores, checked_accesses, records_checked;

// A store that met another thread's store: harmless if it leaves the bytes as they were.
static struct { u64 address; u32 size; u8 before[16]; Error error; bool waiting; } pending;

void check_start(void) {
  checked_accesses = records_checked = same_value_stores = 0;
  pending.waiting = false;
  splits[DEVICE].count = 0;
  group_low = ~0ull, group_high = 0;
  for (u32 i = 0; i < launch.variable_count; i++) {
    const Variable *v = &launch.variables[i];
    if (v->address - RED_ZONE < group_low) group_low = (v->address - RED_ZONE) & ~15ull;
    if (v->address + v->size + RED_ZONE > group_high) group_high = v->address + v->size + RED_ZONE;
  }
  if (!launch.variable_count) group_low = group_high = 0;
  u64 words = (group_high - group_low + 3) / 4 + 4;
  free(group_records), free(group_state);
  group_records = launch.checked ? calloc(words, sizeof(Record)) : 0;
  group_state = launch.checked ? calloc(words, 1) : 0;
}

static void mark_existing(u64 from, u64 size) {
  for (u64 a = from - group_low; a < from - group_low + size; a++)
    group_state[a / 4] |= 16 << a % 4;
}

// Threadgroup memory starts as NaNs and knows nothing of the threadgroup before.
void check_group_start(void) {
  if (!launch.variable_count) return;
  u64 words = (group_high - group_low + 3) / 4;
  for (u32 i = 0; i < launch.variable_count; i++)
    memset((void *)launch.variables[i].address, 0xFF, launch.variables[i].size + RED_ZONE);
  if (!launch.checked) return;
  splits[THREADGROUP].count = 0;
  memset(group_records, 0, words * sizeof(Record));
  memset(group_state, 0, words);
  for (u32 i = 0; i < launch.variable_count; i++)
    mark_existing(launch.variables[i].address, launch.variables[i].size);
}

void check_group_end(void) {
  for (u32 i = 0; i < launch.variable_count && !error.kind; i++) {
    const Variable *v = &launch.variables[i];
    const u8 *zone = (const u8 *)v->address + v->size;
    for (u32 b = 0; b < RED_ZONE; b++) {
      if (zone[b] == 0xFF) continue;
      error = (Error){.kind = OVERRUN, .region = 1000 + i, .offset = b, .length = v->size,
                      .threadgroup = group.number};
      break;
    }
  }
}

void check_pending(void) {
  if (!pending.waiting) return;
  pending.waiting = false;
  if (!memcmp((void *)pending.address, pending.before, pending.size)) {
    same_value_stores++;
    return;
  }
  error = pending.error;
  fail();
}

static bool in_range(u32 id, u32 first, u32 count) { return id - first < count; }

// Whether the access of a record happened before everything that `current` does now.
static bool before(u32 who, u32 stamp, enum Class memory) {
  Simd *simd = current->simd;
  u32 id = who & ID, width = who & WIDTH;
  if (!who) return true;
  if (width == IN_GRID) return false;
  if (width != IN_GROUP && in_range(id, group.first_id + simd->index * LANES, simd->count)) {
    if (width == ONE && id == group.first_id + current->index) return true;
    return stamp < simd->stamp[memory];
  }
  return in_range(id, group.first_id, group.threads) && stamp < group.start[memory];
}

static Error race(u32 who, u32 pc, bool other_write, bool write, bool atomic) {
  u32 id = (who & ID) - 1, per_group = launch.group[0] * launch.group[1] * launch.group[2];
  return (Error){.kind = RACE, .write = write, .other_write = other_write, .atomic = atomic,
                 .other_atomic = (who & ATOMIC) != 0, .other_thread = id % per_group,
                 .other_threadgroup = id / per_group, .other_pc = launch.module_low + pc,
                 .thread = current->index, .threadgroup = group.number};
}

// A set of readers (or of atomic writers) that `current` joins.
static u32 join(u32 who, u32 me, u32 stamp, enum Class memory) {
  if (stamp != current->simd->stamp[memory] && before(who, stamp, memory)) return me;
  if (!who) return me;
  if (!(who & ATOMIC)) me &= ~ATOMIC;  // one plain access among them makes the set plain
  if ((who & ID) == (me & ID) && !(who & WIDTH)) return me;
  u32 id = who & ID, width = IN_GRID;
  if (in_range(id, group.first_id, group.threads)) {
    bool same = in_range(id, group.first_id + current->simd->index * LANES, current->simd->count);
    width = same ? IN_SIMD : IN_GROUP;
  }
  return me | (width > (who & WIDTH) ? width : who & WIDTH);
}

typedef struct {
  u64 address, pc;
  u32 size, me, now;
  enum Class memory;
  bool write, read, atomic;
} Access;

static void at(Error *e, const Access *a, i64 region, u64 offset, u64 length) {
  e->address = a->address, e->size = a->size, e->pc = a->pc;
  e->region = region, e->offset = offset, e->length = length;
  e->write = a->write, e->atomic = a->atomic;
  e->thread = current->index, e->threadgroup = group.number;
}

static void stop(u32 kind, const Access *a, i64 region, u64 offset, u64 length) {
  error = (Error){.kind = kind};
  at(&error, a, region, offset, length);
  fail();
}

// Stops with the buffer named, if there is one.
static void stop_where(u32 kind, const Access *a) {
  u64 slot = (a->address - FIRST_BUFFER) >> SPACING;
  if (slot < MAX_BUFFERS && buffers[slot].map)
    stop(kind, a, (i64)slot, a->address - buffers[slot].base, buffers[slot].size);
  stop(kind, a, -1, 0, 0);
}

void check_misaligned(u64 address, u32 size, u32 line, u64 pc) {
  Access a = {.address = address, .size = size, .pc = pc};
  error = (Error){.kind = MISALIGNED, .line = line};
  u64 slot = (address - FIRST_BUFFER) >> SPACING;
  const Buffer *b = slot < MAX_BUFFERS && buffers[slot].map ? &buffers[slot] : 0;
  at(&error, &a, b ? (i64)slot : -1, b ? address - b->base : 0, b ? b->size : 0);
  error.write = 2;  // either
  fail();
}

static void touch(Record *r, const Access *a, i64 region, u64 offset, u64 length) {
  records_checked++;
  u32 pc = (u32)(a->pc - launch.module_low);
  if (r->writer && r->writer != a->me && !(a->atomic && r->writer & ATOMIC) &&
      !before(r->writer, r->written, a->memory)) {
    Error found = race(r->writer, r->write_pc, true, a->write, a->atomic);
    at(&found, a, region, offset, length);
    if (a->read || !a->write || a->atomic || r->writer & ATOMIC || a->size > 16) {
      error = found;
      fail();
    }
    pending.waiting = true;
    pending.address = a->address, pending.size = a->size;
    memcpy(pending.before, (void *)a->address, a->size);
    pending.error = found;
  }
  if (a->write) {
    if (r->reader && r->reader != a->me && !(a->atomic && r->reader & ATOMIC) &&
        !before(r->reader, r->read, a->memory)) {
      error = race(r->reader, r->read_pc, false, true, a->atomic);
      at(&error, a, region, offset, length);
      fail();
    }
    r->writer = a->atomic ? join(r->writer, a->me, r->written, a->memory) : a->me;
    r->written = a->now, r->write_pc = pc;
  } else {
    if (r->reader == a->me && r->read == a->now) return;
    r->reader = join(r->reader, a->me, r->read, a->memory);
    r->read = a->now, r->read_pc = pc;
  }
}

static Record *split(Record *r, enum Class memory) {
  Four **items = &splits[memory].items;
  u32 *count = &splits[memory].count, *room = &splits[memory].room;
  if (r->reader == SPLIT) return (*items)[r->writer].byte;
  if (*count == *room) {
    *room = *room ? 2 * *room : 1024;
    *items = realloc(*items, *room * sizeof(Four));
    if (!*items) abort();
  }
  Four *four = &(*items)[*count];
  for (int i = 0; i < 4; i++) four->byte[i] = *r;
  *r = (Record){.writer = (*count)++, .reader = SPLIT};
  return four->byte;
}

static inline void touch_words(const Access *a, Record *records, u8 *state, u64 offset,
                               u64 where, i64 region, u64 length, bool initialised) {
  u64 end = offset + a->size;
  for (u64 word = offset / 4; word * 4 < end; word++) {
    u32 first = word * 4 < offset ? offset % 4 : 0;
    u32 last = word * 4 + 4 > end ? end - word * 4 : 4;
    u8 mask = (u8)(((1 << last) - 1) & ~((1 << first) - 1));
    if (a->read && !initialised && (state[word] & mask) != mask)
      stop(UNINITIALISED, a, region, where, length);
    Record *r = &records[word];
    if (mask == 15 && r->reader != SPLIT) touch(r, a, region, where, length);
    else
      for (u32 b = first; b < last; b++) touch(split(r, a->memory) + b, a, region, where, length);
    if (a->write) state[word] |= mask;
  }
}

static void access_group(const Access *a) {
  u64 offset = a->address - group_low, end = offset + a->size;
  for (u64 b = offset; b < end; b += b % 4 || end - b < 4 ? 1 : 4) {
    bool whole = b % 4 == 0 && end - b >= 4;
    u8 exists = group_state[b / 4] >> 4;
    if (whole ? exists != 15 : !(exists >> b % 4 & 1)) stop(OUT_OF_BOUNDS, a, -1, 0, 0);
  }
  touch_words(a, group_records, group_state, offset, 0, -1, 0, false);
}

static void access_device(const Access *a, u64 slot) {
  Buffer *b = slot < MAX_BUFFERS ? &buffers[slot] : 0;
  u64 offset = b ? a->address - b->base : 0;
  if (!b || !b->map) stop(OUT_OF_BOUNDS, a, -1, 0, 0);
  if (offset > b->size || a->size > b->size - offset)
    stop(OUT_OF_BOUNDS, a, slot, offset, b->size);
  if (!b->writable) {
    if (a->write) stop(WRITE_TO_INPUT, a, slot, offset, b->size);
    return;
  }
  touch_words(a, b->records, b->state, offset, offset, slot, b->size, b->initialised);
}

static void check_slowly(Access a, bool aligned) {
  a.me = (group.first_id + current->index) | (a.atomic ? ATOMIC : 0);
  u64 from_first = a.address - FIRST_BUFFER;
  bool device = from_first < (u64)MAX_BUFFERS << SPACING;
  bool in_group = a.address - group_low < group_high - group_low;
  if (aligned && a.address & (a.size - 1)) stop_where(MISALIGNED, &a);
  a.memory = device ? DEVICE : THREADGROUP;
  a.now = current->simd->stamp[a.memory];
  if (device) access_device(&a, from_first >> SPACING);
  else if (in_group) access_group(&a);
  else if (a.write || a.address - launch.module_low >= launch.module_high - launch.module_low)
    stop(OUT_OF_BOUNDS, &a, -1, 0, 0);
}

// Whether a word of threadgroup memory was last used in a way that makes this access uninteresting:
// since its barrier by this thread, or read by many. Whatever met that has ended the launch.
static inline bool known(u64 word, bool write) {
  const Record *r = &group_records[word];
  u32 me = group.first_id + current->index, stamp = current->simd->stamp[THREADGROUP];
  if (write) return r->writer == me && r->written == stamp;
  if (r->read != stamp) return false;
  return r->reader == me || (r->reader & (WIDTH | ATOMIC)) == IN_GROUP;
}

// The common cases first: a read of an input, and known words of threadgroup memory.
void check_access(u64 address, u32 size, bool write, bool read, bool atomic, u64 pc, bool aligned) {
  if (address - stack_low < stack_high - stack_low) return;
  if (pending.waiting) check_pending();
  checked_accesses++, current->accesses++;
  u64 slot = (address - FIRST_BUFFER) >> SPACING;
  bool straight = !aligned || !(address & (size - 1));
  if (slot < MAX_BUFFERS) {
    const Buffer *b = &buffers[slot];
    u64 offset = address - b->base;
    if (!write && !b->writable && straight && offset < b->size && size <= b->size - offset) return;
  } else if (size >= 4 && aligned && straight && !atomic &&
             address - group_low < group_high - group_low) {
    u64 word = (address - group_low) / 4, end = word + size / 4;
    while (word < end && known(word, write)) word++;
    if (word == end) return;
  }
  check_slowly((Access){.address = address, .pc = pc, .size = size, .write = write, .read = read,
                        .atomic = atomic}, aligned);
}
