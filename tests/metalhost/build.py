"""From a program to a loadable object: clang, an edit of its intermediate text, clang again.

The edit makes threadgroup variables external, with a red zone behind each: internal variables may
be split, merged or dropped by the optimiser, and the mistakes in them with them.
"""

import json
import re
import subprocess
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from . import toolchain
from .report import MetalHostError, compile_error
from .toolchain import CPU, HERE, TARGET, CompileFailed

RED_ZONE = 256  # as in runtime/metalhost.h
FRONT = (
    TARGET, "-O1", "-fPIC", "-fvisibility=hidden", "-fwrapv",
    "-Xclang", "-ffloat16-excess-precision=none", "-Xclang", "-fbfloat16-excess-precision=none",
    "-ftrivial-auto-var-init=pattern",
    "-gdwarf-4", "-gline-tables-only", "-fno-stack-protector", "-fstack-clash-protection",
    "-fno-optimize-sibling-calls", "-fno-math-errno", *CPU,
    "-Wno-everything", "-Werror=uninitialized", "-Werror=array-bounds", "-Werror=return-type",
    "-Werror=shift-count-overflow", "-Werror=shift-count-negative", "-ferror-limit=5",
    "-fno-caret-diagnostics",
)  # fmt: skip
METAL = (
    "-x", "clcpp", "-cl-std=clc++2021", "-cl-no-stdinc", "-cl-single-precision-constant",
    "-Xclang",
    "-cl-ext=-cl_khr_fp64,-__opencl_c_fp64,-__opencl_c_program_scope_global_variables,"
    "-__opencl_c_device_enqueue",
    *FRONT, "-Wimplicit-float-conversion",
)  # fmt: skip
CUDA = (
    "-x", "c++", "-std=c++17", "-nostdinc", "-fno-exceptions", "-fno-rtti",
    "-fno-threadsafe-statics", *FRONT,
)  # fmt: skip


@dataclass(frozen=True)
class Language:
    """How texts of a language are compiled."""

    name: str
    flags: tuple[str, ...]
    headers: Path
    """Folder with `all.h`."""
    threadgroup_bytes: int

    def front(self, how: "How") -> tuple[str, ...]:
        checks = CHECKED_FRONT if how.checked else ()
        return (*toolchain.toolchain().clang, *self.flags, how.contraction, *checks)


@dataclass(frozen=True)
class How:
    """In which way a text is compiled."""

    checked: bool
    fused: bool = False
    """Whether products and sums become fused multiply-adds wherever the compiler can."""

    @property
    def contraction(self) -> str:
        return f"-ffp-contract={'fast' if self.fused else 'off'}"


LANGUAGES = {
    "metal": Language("metal", METAL, HERE / "msl", 32 * 1024),
    "cuda": Language("cuda", CUDA, HERE / "cuda", 48 * 1024),
}
BACK = (
    "-x", "ir", TARGET, "-O1", "-fPIC", "-gdwarf-4", "-fno-stack-protector",
    "-fno-math-errno", *CPU, "-Wno-everything",
)  # fmt: skip
CHECKED_FRONT = ("-fsanitize=thread", "-fsanitize=bounds,alignment,integer-divide-by-zero")
CHECKED_BACK = (
    "-fsanitize=thread",
    "-mllvm", "-tsan-compound-read-before-write",
    "-mllvm", "-tsan-instrument-func-entry-exit=0",
)  # fmt: skip
# Locals of the kernel in Metal's texts; in CUDA's, whatever __shared__ has put in a section.
VARIABLE = re.compile(
    r"^(@(?:_ZZ8mh_entryE(\d+)(\w+)|_ZZ\w+?E(\d+)(\w+))) = (internal|linkonce_odr) (?:hidden )?"
    r"(?:unnamed_addr )?global (.*) (?:undef|zeroinitializer|poison)((?:, section \"mhshared\")?)"
    r"(?:, comdat)?, align (\d+)(.*)$",
    re.M,
)
# What is neither constant nor known: it would go unchecked.
OTHER_VARIABLE = re.compile(r'^@(\S+) = (?!private )(?!.*section "mhgroup")(?:\w+ )*global ', re.M)
COPY = re.compile(
    r"^  call void @llvm\.memcpy\.p0\.p0\.i64\(ptr align (\d+) (\S+), ptr align (\d+) (\S+), "
    r"i64 (8|16), i1 false\)((?:, !dbg !\d+)?).*$",
    re.M,
)
LOCATION = re.compile(r"^\t\.loc\t\d+ .*?# (.*)$", re.M)


def kernel_object(program: str, how: How, language: str = "metal") -> Path:
    """Folder with `kernel.so` and `facts.json`, compiled or from the cache."""

    def build(folder: Path) -> None:
        (folder / "kernel.cpp").write_text(program, encoding="utf-8")
        try:
            _compile(folder, LANGUAGES[language], how)
        except CompileFailed as failed:
            raise compile_error(str(failed), program) from None

    return toolchain.cached(("kernel", language, program, str(how)), build)


def _headers(language: Language) -> Path:
    """A copy of our headers that no checkout and no edit touches."""

    def copy(folder: Path) -> None:
        for file in language.headers.glob("*.h"):
            (folder / file.name).write_bytes(file.read_bytes())

    return toolchain.cached(("headers", language.name), copy)


def _parsed_headers(language: Language, how: How) -> Path:
    """The headers parsed once; clang looks for them again where they were then."""
    source = _headers(language) / "all.h"

    def build(folder: Path) -> None:
        emit = ("-fsyntax-only", "-Xclang", "-emit-pch", "-Xclang", "-o", "-Xclang")
        toolchain.toolchain().run([*language.front(how), *emit, folder / "all.pch", source])

    return toolchain.cached(("parsed", language.name, str(how)), build) / "all.pch"


def _compile(folder: Path, language: Language, how: How) -> None:
    tools = toolchain.toolchain()
    source, front, back = folder / "kernel.cpp", folder / "front.ll", folder / "back.ll"
    headers = str(_parsed_headers(language, how))
    parse = (*language.front(how), "-Xclang", "-include-pch", "-Xclang", headers)
    unoptimised = ("-S", "-emit-llvm", "-Xclang", "-disable-llvm-passes")
    said = tools.run([*parse, *unoptimised, source, "-o", front])
    if language.name == "metal":
        _refuse_bfloat_narrowing(said)
        _refuse_generic_pointers_once(parse, source)
    text, variables = external_variables(typed_copies(front.read_text(encoding="utf-8")))
    back.write_text(text, encoding="utf-8")
    lines = _assembled(folder, back, how)
    tools.run([*tools.link, "-shared", "-o", folder / "kernel.so", folder / "kernel.o"])
    facts = {"lines": lines, "variables": variables, "language": language.name}
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    for file in (front, back, folder / "kernel.o"):
        file.unlink()


def _assembled(folder: Path, back: Path, how: How) -> list[str]:
    """Make `kernel.o` of intermediate text; the source locations in it."""
    tools = toolchain.toolchain()
    assembly = folder / "kernel.s"
    checks = CHECKED_BACK if how.checked else ()
    tools.run([*tools.clang, *BACK, how.contraction, *checks, "-S", back, "-o", assembly])
    text, lines = listed_locations(assembly.read_text(encoding="utf-8"))
    assembly.write_text(text, encoding="utf-8")
    tools.run([*tools.clang, TARGET, "-c", "-Wno-everything", assembly, "-o", folder / "kernel.o"])
    assembly.unlink()
    return lines


def _refuse_bfloat_narrowing(said: str) -> None:
    """Metal converts float to bfloat only when told to; clang merely warns."""
    bad = [line for line in said.splitlines() if "warning" in line and "to 'bfloat" in line]
    bad += [line for line in said.splitlines() if "warning" in line and "'__bf16'" in line]
    if bad:
        raise CompileFailed("\n".join(line.replace("warning", "error") for line in bad))


def _refuse_generic_pointers_once(parse: tuple[str, ...], source: Path) -> None:
    """Once for all template values and ways to compile, which make no pointer: printing a text
    takes a sixth of its compilation."""
    text = _without_template_values(source.read_text(encoding="utf-8"))
    toolchain.cached(("address spaces", text), lambda _: _refuse_generic_pointers(parse, source))


def _without_template_values(program: str) -> str:
    """What text.py declares in front of the parameters left out."""
    before, entry, after = program.partition("void mh_entry() {\n")
    lines = after.split("\n")
    values = takewhile(lambda line: line.startswith(("using ", "constexpr ")), lines)
    return "".join([before, entry, *lines[len(list(values)) :]])


def _refuse_generic_pointers(parse: tuple[str, ...], source: Path) -> None:
    """A pointer or reference without an address space, which Metal refuses, is `__generic` here."""
    command = [*parse, "-fsyntax-only", "-Xclang", "-ast-print", str(source)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in printed.splitlines():
        if "__generic" in line:
            name = re.search(r"__generic [\w:<>, ]+[*&]+\s*(\w+)", line)
            at = _declared_at(name[1], source) if name else ""
            raise CompileFailed(f"{at}error: no address space in `{line.strip()}`")


def _declared_at(name: str, source: Path) -> str:
    """`body:1000002:1: ` of the first line that declares a pointer or reference of this name."""
    number, file = 0, ""
    for line in source.read_text(encoding="utf-8").splitlines():
        marker = re.match(r'#line (\d+) "(\w+)"', line)
        if marker:
            number, file = int(marker[1]) - 1, marker[2]
        elif re.search(rf"[*&]\s*{name}\b", line):
            return f"{file}:{number}:1: "
        number += 1
    return ""


def refuse_too_much_threadgroup_memory(language: str, sizes: list[int]) -> None:
    """Every variable starts at a multiple of 16 bytes."""
    most = LANGUAGES[language].threadgroup_bytes
    total = sum((size + 15) // 16 * 16 for size in sizes)
    if total > most:
        raise MetalHostError(
            "compile", f"{total} bytes of threadgroup memory, {most} are the most a kernel gets"
        )


def external_variables(ll: str) -> tuple[str, list[str]]:
    """The intermediate text with threadgroup variables external, listed in `mh_variables`."""
    names: list[str] = []
    entries: list[str] = []

    def outside(match: re.Match[str]) -> str:
        symbol, n, rest, m, other, linkage, kind, section, align, tail = match.groups()
        if not section and (linkage != "internal" or not n):
            return match[0]
        names.append((rest or other)[: int(n or m)])
        entries.append(
            f"{{ ptr, i64 }} {{ ptr {symbol}, i64 ptrtoint (ptr getelementptr ({kind}, ptr null, "
            "i32 1) to i64) }"
        )
        return (
            f"{symbol} = weak hidden global {{ {kind}, [{RED_ZONE} x i8] }} zeroinitializer, "
            f'section "mhgroup", align {max(int(align), 64)}{tail}'
        )

    edited = VARIABLE.sub(outside, ll)
    other = OTHER_VARIABLE.search(edited)
    if other:
        raise CompileFailed(f"error: metalhost does not know variables like {other[1]}")
    table = f"@mh_variables = global [{len(names)} x {{ ptr, i64 }}] [{', '.join(entries)}]\n"
    lead = f'@mh_lead = weak hidden global [{RED_ZONE} x i8] zeroinitializer, section "mhgroup"\n'
    edited = re.sub(r"^(?=define )", lead + table, edited, count=1, flags=re.M)
    return edited, names


def typed_copies(ll: str) -> str:
    """Copies of 8 or 16 aligned bytes as a load and a store, whose alignment is checked."""

    def typed(match: re.Match[str]) -> str:
        to_align, to, from_align, source, size, tail = match.groups()
        if to_align != size or from_align != size:
            return match[0]
        value = f"%mh.copy.{match.start()}"
        kind = f"<{int(size) // 4} x i32>"
        return (
            f"  {value} = load {kind}, ptr {source}, align {size}{tail}\n"
            f"  store {kind} {value}, ptr {to}, align {size}{tail}"
        )

    return COPY.sub(typed, ll)


def listed_locations(assembly: str) -> tuple[str, list[str]]:
    """Assembly with a table of its addresses; their locations, with inlined calls."""
    lines: list[str] = []

    def label(match: re.Match[str]) -> str:
        lines.append(match[1])
        return f"{match[0]}\n.Lmh{len(lines) - 1}:"

    text = LOCATION.sub(label, assembly)
    table = ['.section mhlines,"a",@progbits', ".globl mh_lines", "mh_lines:", ".Lmhlines:"]
    table += [f".long .Lmh{i}-.Lmhlines" for i in range(len(lines))]
    return text + "\n".join(table) + "\n", lines
