// Every thread of a threadgroup is a fiber: a stack of its own and a switch of ten instructions.
// A fault (a guard page, a division by zero) ends the launch instead of the process.
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>

#include "metalhost.h"

enum { STACK = 256 * 1024, GUARD = 4096 };

u64 stack_low, stack_high;
void *main_sp;
static u32 stack_count;
static u8 signal_stack[64 * 1024] __attribute__((aligned(64)));
static u8 rescue_stack[16 * 1024] __attribute__((aligned(64)));

__asm__(
    ".text\n.globl fiber_switch\n.hidden fiber_switch\nfiber_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n  ret\n");

bool fiber_stacks(u32 count) {
  if (count <= stack_count) return true;
  if (stack_low) munmap((void *)stack_low, stack_high - stack_low);
  stack_count = 0;
  void *memory = mmap(0, (u64)count * STACK, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return stack_low = 0, false;
  stack_low = (u64)memory;
  stack_high = stack_low + (u64)count * STACK;
  for (u32 i = 0; i < count; i++) mprotect((u8 *)memory + (u64)i * STACK, GUARD, PROT_NONE);
  stack_count = count;
  return true;
}

void *fiber_prepare(u32 index, void (*run)(void)) {
  // Stacks start at different offsets, or all of them would share a few cache sets.
  u64 top = stack_low + (u64)(index + 1) * STACK - 64 - (index * 832u) % 8192 / 64 * 64;
  u64 *sp = (u64 *)top;
  *--sp = 0;         // keeps the stack as the calling convention wants it at a function's entry
  *--sp = (u64)run;
  for (int i = 0; i < 6; i++) *--sp = 0;
  return sp;
}

static void leave(void) {
  void *unused;
  fiber_switch(&unused, main_sp);
}

// Leaves the kernel at once: its fibers are never resumed.
static void abandon(ucontext_t *registers, u32 kind) {
  memset(&error, 0, sizeof error);
  error.kind = kind;
  error.thread = current->index, error.threadgroup = group.number;
  error.pc = (u64)registers->uc_mcontext.gregs[REG_RIP];
  registers->uc_mcontext.gregs[REG_RIP] = (i64)leave;
  registers->uc_mcontext.gregs[REG_RSP] = (i64)(rescue_stack + sizeof rescue_stack - 72);
}

static void on_fault(int number, siginfo_t *info, void *context) {
  ucontext_t *registers = context;
  u64 sp = (u64)registers->uc_mcontext.gregs[REG_RSP];
  if (sp - stack_low >= stack_high - stack_low) {
    signal(number, SIG_DFL);  // not the kernel's fault: ours or Python's
    return;
  }
  abandon(registers, number == SIGFPE ? DIVISION : number == SIGILL ? UNSUPPORTED : FAULT);
  error.address = (u64)info->si_addr;
  if (error.address - stack_low < stack_high - stack_low) error.text = "private";
}

// Only inside the kernel's own code: the runtime could be in the middle of anything.
static void on_time(int number, siginfo_t *info, void *context) {
  (void)number, (void)info;
  ucontext_t *registers = context;
  u64 pc = (u64)registers->uc_mcontext.gregs[REG_RIP];
  if (pc - launch.module_low < launch.module_high - launch.module_low) abandon(registers, ENDLESS);
}

void fiber_signals(bool install) {
  static const int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGVTALRM};
  static struct sigaction before[5];
  static stack_t stack_before;
  stack_t stack = {.ss_sp = signal_stack, .ss_size = sizeof signal_stack};
  struct itimerval timer = {.it_value = {launch.seconds, 0}, .it_interval = {0, 5000}};
  struct itimerval no_timer = {0};
  setitimer(ITIMER_VIRTUAL, &no_timer, 0);
  if (install) sigaltstack(&stack, &stack_before);
  for (int i = 0; i < 5; i++) {
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    action.sa_sigaction = numbers[i] == SIGVTALRM ? on_time : on_fault;
    install ? sigaction(numbers[i], &action, &before[i]) : sigaction(numbers[i], &before[i], 0);
  }
  if (install) setitimer(ITIMER_VIRTUAL, &timer, 0);
  else sigaltstack(&stack_before, 0);
}
