"""What a launch or a compiler complained about, as one sentence with kind and line."""

import re

from .text import BODY_LINE

KINDS = (
    "none", "out of bounds", "uninitialised read", "race", "write to input", "misaligned access",
    "barrier divergence", "simd divergence", "simd argument", "unwritten output",
    "threadgroup overrun", "memory fault", "division by zero", "index out of range", "unsupported",
    "endless",
)  # fmt: skip
OPERATIONS = (
    "", "simd_sum", "simd_product", "simd_min", "simd_max", "simd_and", "simd_or", "simd_xor",
    "simd_prefix_inclusive_sum", "simd_prefix_exclusive_sum", "simd_prefix_inclusive_product",
    "simd_prefix_exclusive_product", "simd_shuffle", "simd_shuffle_xor", "simd_shuffle_up",
    "simd_shuffle_down", "simd_shuffle_rotate_up", "simd_shuffle_rotate_down", "simd_broadcast",
    "simd_broadcast_first", "simd_ballot", "simdgroup_multiply", "a warp function",
)  # fmt: skip

NO_DOUBLE = "use of type 'double' requires cl_khr_fp64 and __opencl_c_fp64 support"
WORDS = {
    NO_DOUBLE: "Metal has no double",
    " (aka '__bf16')": "",
    "local address space": "threadgroup address space",
    "__global ": "device ",
    "__local ": "threadgroup ",
    "__constant ": "constant ",
    "__private ": "thread ",
    "__private": "",
    "__generic ": "",
    "__bf16": "bfloat",
}


class MetalHostError(RuntimeError):
    """A kernel text that Metal would refuse, or a launch that broke a rule of the GPU.

    `kind` is one of report.KINDS or "compile"; `line` counts in the body from 1, None where it is
    in the header or unknown.
    """

    def __init__(self, kind: str, message: str, line: int | None = None) -> None:
        super().__init__(f"{kind}: {metal_words(message)}")
        self.kind = kind
        self.line = line


def metal_words(message: str) -> str:
    """clang's names of address spaces and types in Metal's words."""
    for clang, metal in WORDS.items():
        message = message.replace(clang, metal)
    message = re.sub(r" __attribute__\(\(ext_vector_type\((\d+)\)\)\)", r" vector of \1", message)
    return re.sub(r" \[-W[^]]*\]", "", message)


def operation_name(number: int) -> str:
    named = {100: "simdgroup_barrier", 101: "threadgroup_barrier"}
    return named.get(number) or OPERATIONS[number]


def place(line: int) -> str:
    """`body:7` or `header:12` of a line number of the program."""
    return f"body:{line - BODY_LINE}" if line > BODY_LINE else f"header:{line}"


def body_line(line: int) -> int | None:
    return line - BODY_LINE if line > BODY_LINE else None


def quoted(line: int, header: str, body: str) -> str:
    """The text of a line, in quotes."""
    lines = (body if line > BODY_LINE else header).split("\n")
    number = line - BODY_LINE if line > BODY_LINE else line
    found = lines[number - 1].strip() if 0 < number <= len(lines) else ""
    return f" `{found}`" if found else ""


def source_lines(location: str) -> list[int]:
    """Lines of header and body in an inlined chain like `header:4:3 @[ body:1000005:13 ]`."""
    found = re.findall(r"(?:^|\W)(?:header|body):(\d+):\d+", location)
    return [int(line) for line in found if int(line)]


def compile_error(said: str, program: str) -> MetalHostError:
    """The first error of the compiler, with the line in header or body."""
    lines = [line for line in said.splitlines() if "error" in line] or said.splitlines()
    first = lines[0] if lines else "the compiler failed without a word"
    match = re.match(r"(?:\S*/)?(header|body):(\d+):\d+: (?:fatal )?error: (.*)", first)
    if match is None:
        return MetalHostError("compile", re.sub(r"\S*/", "", first.removeprefix("error: ")))
    line = int(match[2])
    return MetalHostError("compile", f"{place(line)}: {match[3]}", body_line(line))
