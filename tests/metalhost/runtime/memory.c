// Device memory: buffers far from each other, with nothing mapped around them.
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>

#include "metalhost.h"

Buffer buffers[MAX_BUFFERS];
static u32 buffer_count;

static void *map(u64 at, u64 size) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED_NOREPLACE : 0);
  void *memory = mmap((void *)at, size, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (memory == MAP_FAILED) return 0;
  if (at && (u64)memory != at) return munmap(memory, size), (void *)0;
  return memory;
}

// The buffer ends where its last page ends (to 16 bytes), with nothing mapped after and before it.
void *mh_buffer(u32 number, u64 size, u32 writable, u32 initialised, u32 checked) {
  if (number >= MAX_BUFFERS) return 0;
  Buffer *buffer = &buffers[number];
  u64 pages = (size + 15) / 4096 * 4096 + 4096;
  u64 place = FIRST_BUFFER + ((u64)number << SPACING) + (1ull << (SPACING - 1));
  if (!map(place, pages)) return 0;
  buffer->map = place, buffer->map_size = pages;
  buffer->base = place + pages - (size + 15) / 16 * 16;
  buffer->size = size, buffer->writable = writable, buffer->initialised = initialised;
  if (number >= buffer_count) buffer_count = number + 1;
  u64 words = (size + 3) / 4 + 1;
  if (writable && checked) {
    buffer->records = map(0, words * sizeof(Record));
    buffer->state = map(0, words);
    if (!buffer->records || !buffer->state) return 0;
  }
  return (void *)buffer->base;
}

void mh_release(void) {
  for (u32 i = 0; i < buffer_count; i++) {
    Buffer *b = &buffers[i];
    u64 words = (b->size + 3) / 4 + 1;
    if (b->map) munmap((void *)b->map, b->map_size);
    if (b->records) munmap(b->records, words * sizeof(Record));
    if (b->state) munmap(b->state, words);
  }
  memset(buffers, 0, sizeof buffers);
  buffer_count = 0;
}

u64 mh_argument(u32 number) { return buffers[number].base; }

void check_outputs(void) {
  if (!launch.checked) return;
  for (u32 i = 0; i < buffer_count; i++) {
    Buffer *b = &buffers[i];
    if (!b->writable || b->initialised) continue;
    u64 missing = 0, first = 0;
    for (u64 a = 0; a < b->size; a++) {
      if (b->state[a / 4] >> a % 4 & 1) continue;
      if (!missing++) first = a;
    }
    if (!missing) continue;
    error = (Error){.kind = UNWRITTEN_OUTPUT, .region = i, .offset = first, .size = missing,
                    .length = b->size};
    return;
  }
}
