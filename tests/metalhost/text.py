"""The Metal text that MLX would hand to Metal, rewritten into a program for the host.

MLX generates a kernel's signature when it traces a call, which works without Metal. The body stays
as it is: parameters and template values become declarations in front of it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

# Lines of the body are numbered from here, so that one number tells body and header apart.
BODY_LINE = 1_000_000
SIGNATURE = re.compile(r"void custom_kernel_\w*\(\n(.*?)\) \{\n", re.S)
TEMPLATE = re.compile(r"template <(.*)>\n\[\[kernel\]\]")
VALUES = re.compile(r"\bdecltype\([^<]*<(.*)>\) custom_kernel_")
PARAMETER = re.compile(r"\s*(.+?[\s*&])(\w+) \[\[(\w+)(?:\((\d+)\))?\]\]")

# Attributes: number in the runtime, and whether the value has three components in its own type.
ATTRIBUTES = {
    "thread_position_in_grid": 0,
    "thread_position_in_threadgroup": 1,
    "threadgroup_position_in_grid": 2,
    "threadgroups_per_grid": 3,
    "threads_per_grid": 4,
    "grid_size": 4,
    "threads_per_threadgroup": 5,
    "dispatch_threads_per_threadgroup": 6,
    "thread_index_in_threadgroup": 7,
    "thread_index_in_simdgroup": 8,
    "simdgroup_index_in_threadgroup": 9,
    "simdgroups_per_threadgroup": 10,
    "dispatch_simdgroups_per_threadgroup": 11,
    "threads_per_simdgroup": 12,
    "thread_execution_width": 12,
    "thread_index_in_quadgroup": 13,
    "quadgroup_index_in_threadgroup": 14,
    "quadgroups_per_threadgroup": 15,
    "dispatch_quadgroups_per_threadgroup": 16,
    "grid_origin": 17,
}
# Tells a compiler the file that a part comes from; here lines of header and body are counted.
PLACE = re.compile(r'^\n#line \d+ "[^"]*"\n', re.M)
VECTOR = r"(?:u?(?:char|short|int|long)|half|bfloat|float)[234]|(?:metal::)?vec<[^<>]*>"


@dataclass(frozen=True)
class Parameter:
    """One parameter of the generated kernel: an attribute, or the buffer with a number."""

    declared: str
    name: str
    attribute: str | None

    @property
    def is_reference(self) -> bool:
        return self.declared.endswith("&")


@dataclass(frozen=True)
class KernelText:
    header: str
    body: str
    parameters: tuple[Parameter, ...]
    template: tuple[tuple[str, str], ...]
    """Declarations like ("typename T", "bfloat16_t") and ("int N", "4")."""

    @property
    def buffers(self) -> tuple[Parameter, ...]:
        return tuple(p for p in self.parameters if p.attribute is None)

    def program(self, qualities: bool = False) -> str:
        """C++ for OpenCL with one kernel, `mh_entry`, that takes nothing.

        `qualities` sets rivals beside functions that Metal has as precise and as fast ones.
        """
        return "\n".join(
            [
                *(["MH_RIVALS"] if qualities else []),
                '#line 1 "header"',
                host_words(self.header),
                '#line 1 "signature"',
                'kernel __attribute__((visibility("default"))) void mh_entry() {',
                *[_template_line(declared, value) for declared, value in self.template],
                *[_buffer_line(i, p) for i, p in enumerate(self.buffers)],
                *[_attribute_line(p) for p in self.parameters if p.attribute],
                f'#line {BODY_LINE + 1} "body"',
                host_words(self.body),
                "}",
                "",
            ]
        )


def traced(
    kernel: Any, header: str, body: str, inputs: Sequence[mx.array], call: Any
) -> KernelText:
    """The text of one call of an `mx.fast.metal_kernel`, by tracing it for export."""
    found: list[str] = []

    def look(event: dict) -> None:
        if event.get("type") == "primitive" and event.get("name") == "CustomKernel":
            found.append(event["arguments"][1])

    mx.export_function(look, lambda *arrays: kernel(inputs=list(arrays), **call), *inputs)
    return parsed(found[0], header, body)


def parsed(text: str, header: str, body: str) -> KernelText:
    if not text.startswith(header) or body not in text[len(header) :]:
        raise ValueError("MLX's generated text does not hold header and body as they were given")
    generated = text[len(header) :]
    signature = SIGNATURE.search(generated)
    if signature is None:
        raise ValueError("MLX's generated text has no kernel signature of the known form")
    template = TEMPLATE.match(generated.lstrip())
    values = VALUES.search(generated) if template else None
    pairs = zip(template[1].split(", "), values[1].split(", "), strict=True) if values else ()
    header, body = (PLACE.sub("", part) for part in (header, body))
    return KernelText(header, body, _parameters(signature[1]), tuple(pairs))


def _parameters(lines: str) -> tuple[Parameter, ...]:
    found = []
    for line in filter(None, (line.strip(" ,") for line in lines.split("\n"))):
        match = PARAMETER.fullmatch(line)
        if match is None:
            raise ValueError(f"cannot read the kernel parameter {line!r}")
        declared, name, attribute = match[1].strip(), match[2], match[3]
        if attribute != "buffer" and attribute not in ATTRIBUTES:
            raise ValueError(f"the attribute {attribute} is not supported on the host")
        found.append(Parameter(declared, name, None if attribute == "buffer" else attribute))
    return tuple(found)


def _template_line(declared: str, value: str) -> str:
    kind, name = declared.split(" ")
    return f"using {name} = {value};" if kind == "typename" else f"constexpr {declared} = {value};"


def _buffer_line(number: int, parameter: Parameter) -> str:
    if parameter.is_reference:
        kind = parameter.declared[:-1]
        return f"{kind}& {parameter.name} = *({kind}*)mh_argument({number});"
    return f"{parameter.declared} {parameter.name} = ({parameter.declared})mh_argument({number});"


def _attribute_line(parameter: Parameter) -> str:
    number = ATTRIBUTES[parameter.attribute or ""]
    length = parameter.declared[-1] if parameter.declared[-1] in "23" else "1"
    values = ", ".join(f"mh_attribute({number}, {d})" for d in range(int(length)))
    return f"{parameter.declared} {parameter.name} = {parameter.declared}({values});"


def host_words(text: str) -> str:
    """Spells what clang has no syntax for: conversions to vectors that look like casts.

    Includes of Metal's own headers go: all of them are there already.
    """
    text = re.sub(r"^[ \t]*#include\s*<metal_\w+>", "", text, flags=re.M)
    text = re.sub(rf"\bstatic_cast<\s*({VECTOR})\s*>\s*\(", r"mh_make<\1>(", text)
    return re.sub(r"\b((?:metal::)?vec<[^<>]*>)\s*\(", r"mh_make<\1>(", text)
