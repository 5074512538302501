// Atomics of 32 bits, on device and threadgroup memory; and roundings that x86 lacks.
#include <string.h>

#include "metalhost.h"

enum { LOAD, STORE, EXCHANGE, ADD, SUB, MIN, MAX, AND, OR, XOR };
enum { INT, UINT, FLOAT };

static float as_float(u32 bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

static u32 as_bits(float f) {
  u32 bits;
  memcpy(&bits, &f, 4);
  return bits;
}

static bool less(u32 a, u32 b, u32 type) {
  if (type == FLOAT) return as_float(a) < as_float(b);
  return type == INT ? (int32_t)a < (int32_t)b : a < b;
}

static u32 combined(u32 old, u32 operand, u32 operation, u32 type) {
  switch (operation) {
    case LOAD: return old;
    case STORE: case EXCHANGE: return operand;
    case ADD: return type == FLOAT ? as_bits(as_float(old) + as_float(operand)) : old + operand;
    case SUB: return type == FLOAT ? as_bits(as_float(old) - as_float(operand)) : old - operand;
    case MIN: return less(operand, old, type) ? operand : old;
    case MAX: return less(old, operand, type) ? operand : old;
    case AND: return old & operand;
    case OR: return old | operand;
    default: return old ^ operand;
  }
}

static void check(u32 *word, u32 operation, void *pc) {
  if (!launch.checked) return;
  check_access((u64)word, 4, operation != LOAD, operation != STORE, true, (u64)pc, true);
}

u32 mh_atomic(u32 *word, u32 operation, u32 operand, u32 type) {
  check(word, operation, __builtin_return_address(0));
  u32 old = *word;
  if (operation != LOAD) *word = combined(old, operand, operation, type);
  return old;
}

u32 mh_atomic_compare_exchange(u32 *word, u32 expected, u32 desired) {
  check(word, EXCHANGE, __builtin_return_address(0));
  u32 old = *word;
  if (old == expected) *word = desired;
  return old;
}

// Round to nearest even; NaN stays a quiet NaN.
static uint16_t bfloat_bits(float f) {
  u32 bits = as_bits(f);
  if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 64);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

__bf16 __truncsfbf2(float f) {
  uint16_t bits = bfloat_bits(f);
  __bf16 result;
  memcpy(&result, &bits, 2);
  return result;
}
