// The functions that the compiler calls under -fsanitize=thread and -fsanitize=bounds.
#include <string.h>

#include "metalhost.h"

#define HERE ((u64)__builtin_return_address(0))
#define HOOKS(n)                                                                              \
  void __tsan_read##n(u64 a) { check_access(a, n, false, true, false, HERE, true); }          \
  void __tsan_write##n(u64 a) { check_access(a, n, true, false, false, HERE, true); }         \
  void __tsan_read_write##n(u64 a) { check_access(a, n, true, true, false, HERE, true); }     \
  void __tsan_unaligned_read##n(u64 a) { check_access(a, n, false, true, false, HERE, false); } \
  void __tsan_unaligned_write##n(u64 a) { check_access(a, n, true, false, false, HERE, false); } \
  void __tsan_unaligned_read_write##n(u64 a) { check_access(a, n, true, true, false, HERE, false); }

HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_init(void) {}
void __tsan_func_entry(void *pc) { (void)pc; }
void __tsan_func_exit(void) {}

void *__tsan_memcpy(void *to, const void *from, u64 size) {
  if (size) check_access((u64)from, (u32)size, false, true, false, HERE, false);
  if (size) check_access((u64)to, (u32)size, true, false, false, HERE, false);
  return memcpy(to, from, size);
}

void *__tsan_memmove(void *to, const void *from, u64 size) {
  if (size) check_access((u64)from, (u32)size, false, true, false, HERE, false);
  if (size) check_access((u64)to, (u32)size, true, false, false, HERE, false);
  return memmove(to, from, size);
}

void *__tsan_memset(void *to, int value, u64 size) {
  if (size) check_access((u64)to, (u32)size, true, false, false, HERE, false);
  return memset(to, value, size);
}

// The data that clang passes to the handlers: where, and the types.
typedef struct { const char *file; u32 line, column; } Place;

void __ubsan_handle_out_of_bounds(Place *place, u64 index) {
  error = (Error){.kind = INDEX, .line = place->line, .pc = HERE, .offset = index};
  const char *const *types = (const char *const *)(place + 1);
  error.text = types[0] + 4;  // after kind and width: the array's type in quotes
  fail();
}

void __ubsan_handle_divrem_overflow(Place *place, u64 left, u64 right) {
  (void)left, (void)right;
  error = (Error){.kind = DIVISION, .line = place->line, .pc = HERE};
  fail();
}

// A value whose type wants an address of a higher power of two.
typedef struct {
  Place place;
  const char *type;
  u8 log_alignment, use;
} Mismatch;

void __ubsan_handle_type_mismatch_v1(Mismatch *found, u64 address) {
  check_misaligned(address, 1u << found->log_alignment, found->place.line, HERE);
}
