"""One launch of a compiled kernel: buffers behind guard pages, the run, and its error."""

import bisect
import ctypes
import functools
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import toolchain
from .build import refuse_too_much_threadgroup_memory
from .report import KINDS, MetalHostError, body_line, operation_name, place, quoted, source_lines
from .text import KernelText

LOCK = threading.RLock()
SECONDS = 120
"""CPU time after which a launch counts as endless."""


class Error(ctypes.Structure):
    """`Error` of runtime/metalhost.h."""

    _fields_ = [
        *[(n, ctypes.c_uint32) for n in ("kind", "thread", "threadgroup", "other_thread")],
        *[(n, ctypes.c_uint32) for n in ("other_threadgroup", "line", "other_line")],
        *[(n, ctypes.c_uint64) for n in ("pc", "other_pc", "address", "size", "offset", "length")],
        ("region", ctypes.c_int64),
        *[(n, ctypes.c_uint32) for n in ("write", "other_write", "atomic", "other_atomic")],
        *[(n, ctypes.c_uint32) for n in ("count", "total", "operation", "other_operation")],
        ("text", ctypes.c_char_p),
    ]


@functools.cache
def runtime() -> ctypes.CDLL:
    ctypes.CDLL("libm.so.6", mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(toolchain.runtime_library()), mode=ctypes.RTLD_GLOBAL)
    library.mh_buffer.restype = ctypes.c_void_p
    library.mh_buffer.argtypes = [ctypes.c_uint32, ctypes.c_uint64, *[ctypes.c_uint32] * 3]
    library.mh_error.restype = ctypes.POINTER(Error)
    library.mh_launch.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p,
        ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint64, *[ctypes.c_uint32] * 3,
    ]  # fmt: skip
    return library


class Variable(ctypes.Structure):
    _fields_ = [("address", ctypes.c_uint64), ("size", ctypes.c_uint64)]


class Module:
    """A loaded kernel object."""

    def __init__(self, folder: Path) -> None:
        runtime()
        try:
            self.library = ctypes.CDLL(str(folder / "kernel.so"))
        except OSError as missing:
            raise MetalHostError(
                "compile", f"the kernel needs what no library has: {missing}"
            ) from None
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        self.names: list[str] = facts["variables"]
        self.locations: list[str] = facts["lines"]
        self.entry = ctypes.cast(self.library.mh_entry, ctypes.c_void_p).value
        self.variables = (Variable * len(self.names)).in_dll(self.library, "mh_variables")
        self.low, self.high = _loaded_range(folder / "kernel.so")
        refuse_too_much_threadgroup_memory(facts["language"], [v.size for v in self.variables])
        self._addresses: list[tuple[int, int]] | None = None

    def location(self, pc: int) -> list[int]:
        """Source lines of an instruction's address, innermost call first."""
        if self._addresses is None:
            offsets = (ctypes.c_int32 * len(self.locations)).in_dll(self.library, "mh_lines")
            base = ctypes.addressof(offsets)
            self._addresses = sorted((base + o, i) for i, o in enumerate(offsets))
        at = bisect.bisect_right(self._addresses, (pc - 1, len(self.locations))) - 1
        while at >= 0:
            lines = source_lines(self.locations[self._addresses[at][1]])
            if lines:
                return lines
            at -= 1
        return []


def _loaded_range(file: Path) -> tuple[int, int]:
    """Addresses between which the object lies in this process."""
    spans = []
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            if line.rstrip().endswith(str(file)):
                low, _, high = line.split(" ")[0].partition("-")
                spans += [int(low, 16), int(high, 16)]
    return min(spans), max(spans)


@functools.lru_cache(maxsize=512)
def module(folder: Path) -> Module:
    return Module(folder)


@dataclass(frozen=True)
class Buffer:
    """Bytes to copy in, or a size and an optional fill for an output."""

    name: str
    size: int
    data: int | None = None
    """Address of the bytes of an input or of an output's initial value."""
    writable: bool = False


@dataclass(frozen=True)
class Order:
    kind: int
    seed: int

    @classmethod
    def of(cls, order: str | int) -> "Order":
        named = {"ascending": 0, "descending": 1}
        if isinstance(order, str) and order not in named:
            raise ValueError(f"order is 'ascending', 'descending' or an int, not {order!r}")
        return cls(named[order], 0) if isinstance(order, str) else cls(2, order)


@dataclass(frozen=True)
class Counts:
    """Work of one launch, the same on every machine. Accesses and records only in checked mode."""

    checked_accesses: int
    records: int
    """Records of words and bytes that accesses looked at: none for those known to be harmless."""
    lane_switches: int
    threads: int
    same_value_stores: int
    most_barriers: int = 0
    """Threadgroup barriers of the threadgroup that passed the most."""
    most_accesses: int = 0
    """Accesses of the thread that made the most; only in checked mode."""


def run(
    kernel: Module,
    text: KernelText,
    buffers: Sequence[Buffer],
    shape: Sequence[int],
    order: Order,
    checked: bool,
    flushed: bool,
) -> tuple[list[bytes], Counts]:
    """Run once; the bytes of the writable buffers in order. `shape`: grid, then threadgroup."""
    with LOCK:
        try:
            places = [_place(i, b, checked) for i, b in enumerate(buffers)]
            failed = runtime().mh_launch(
                kernel.entry, (ctypes.c_uint32 * 6)(*shape), kernel.low, kernel.high,
                ctypes.addressof(kernel.variables), len(kernel.names), order.kind,
                order.seed & 0xFFFFFFFFFFFFFFFF, checked, flushed, SECONDS,
            )  # fmt: skip
            if failed:
                raise _described(runtime().mh_error().contents, kernel, text, buffers)
            counts = (ctypes.c_uint64 * 7)()
            runtime().mh_counts(counts)
            outputs = [
                ctypes.string_at(p, b.size)
                for p, b in zip(places, buffers, strict=True)
                if b.writable
            ]
            return outputs, Counts(*counts)
        finally:
            runtime().mh_release()


def _place(number: int, buffer: Buffer, checked: bool) -> int:
    given = buffer.data is not None
    place = runtime().mh_buffer(number, buffer.size, buffer.writable, given, checked)
    if not place:
        raise MemoryError(f"no memory for buffer {buffer.name} of {buffer.size} bytes")
    if given:
        ctypes.memmove(place, buffer.data, buffer.size)
    else:
        ctypes.memset(place, 0xFF, buffer.size)
    return place


def _described(
    e: Error, kernel: Module, text: KernelText, buffers: Sequence[Buffer]
) -> MetalHostError:
    lines = [e.line] if e.line else kernel.location(e.pc) if e.pc else []
    line = next((n for n in lines if body_line(n)), lines[0] if lines else 0)
    message = _sentence(e, kernel, buffers)
    if e.kind == KINDS.index("race"):
        others = kernel.location(e.other_pc)
        message += _at(others, text)
    where = f"{_at(lines, text).removeprefix(' at ')}: " if lines else ""
    return MetalHostError(KINDS[e.kind], where + message, body_line(line))


def _at(lines: Sequence[int], text: KernelText) -> str:
    if not lines:
        return ""
    chain = " called from ".join(place(n) for n in lines)
    return f" at {chain}{quoted(lines[0], text.header, text.body)}"


def _who(thread: int, threadgroup: int) -> str:
    return f"thread {thread} of threadgroup {threadgroup}"


def _did(write: int, atomic: int) -> str:
    return ("atomically " if atomic else "") + ("reads", "writes", "accesses")[write]


def _what(e: Error, kernel: Module, buffers: Sequence[Buffer]) -> str:
    """The bytes of an access, named by buffer or threadgroup variable."""
    if 0 <= e.region < len(buffers):
        offset = e.offset - 2**64 if e.offset >> 63 else e.offset
        return (
            f"bytes {offset}..{offset + e.size - 1} of {buffers[e.region].name} ({e.length} bytes)"
        )
    near = [
        (abs(e.address - v.address - v.size // 2), v, n)
        for v, n in zip(kernel.variables, kernel.names, strict=True)
        if v.address - 256 <= e.address < v.address + v.size + 256
    ]
    if not near:
        return f"{e.size} bytes at an address that belongs to no buffer"
    _, v, name = min(
        near, key=lambda found: not (0 <= e.address - found[1].address < found[1].size)
    )
    offset = e.address - v.address
    return f"bytes {offset}..{offset + e.size - 1} of threadgroup {name} ({v.size} bytes)"


def _sentence(e: Error, kernel: Module, buffers: Sequence[Buffer]) -> str:
    kind = KINDS[e.kind]
    who = _who(e.thread, e.threadgroup)
    other = _who(e.other_thread, e.other_threadgroup)
    if kind == "race":
        did = f"{who} {_did(e.write, e.atomic)} {_what(e, kernel, buffers)}"
        return f"{did} while {other} {_did(e.other_write, e.other_atomic)} them without a barrier"
    if kind == "barrier divergence" or kind == "simd divergence":
        name, there = operation_name(e.operation), operation_name(e.other_operation)
        elsewhere = f"waits at {there} of {place(e.other_line)}" if e.other_line else "has finished"
        reached = f" (reached by {e.count} of {e.total} threads)" if e.total else ""
        return f"{who} waits at {name}{reached}, thread {e.other_thread} {elsewhere}"
    if kind == "simd argument":
        value = e.offset - 2**64 if e.offset >> 63 else e.offset
        return f"{who} calls {operation_name(e.operation)} with {value}, which {e.text.decode()}"
    if kind == "unwritten output":
        return (
            f"{e.size} of {e.length} bytes of {buffers[e.region].name} were never written, "
            f"the first at byte {e.offset}"
        )
    if kind == "threadgroup overrun":
        name = kernel.names[e.region - 1000]
        return (
            f"threadgroup {e.threadgroup} wrote {e.offset} bytes behind {name} ({e.length} bytes)"
        )
    if kind == "memory fault":
        private = ", on its own stack" if e.text else ""
        return f"{who} touches memory that no buffer has{private}{_near(e, buffers)}"
    if kind == "index out of range":
        index = e.offset - 2**64 if e.offset >> 63 else e.offset
        return f"{who} uses index {index} of {e.text.decode(errors='replace').strip(chr(39))}"
    if kind == "division by zero":
        return f"{who} divides by zero"
    if kind == "endless":
        return f"{who} still runs after {SECONDS} s; does it wait for another thread?"
    if kind == "unsupported":
        return f"{who} executed an instruction that cannot go on"
    return f"{who} {_did(e.write, e.atomic)} {_what(e, kernel, buffers)}"


def _near(e: Error, buffers: Sequence[Buffer]) -> str:
    number = (e.address - 0x200000000000) >> 36
    return f" (nearest: {buffers[number].name})" if 0 <= number < len(buffers) else ""
