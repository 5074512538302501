"""A text carries the shared files that it uses, and no others."""

import re
from pathlib import Path

import pytest

from metal_kernels import sources

FILES = sorted(sources.ROOT.glob("*/*.metal"))
TEXTS = [pytest.param(file, id=file.stem) for file in FILES if file.parent != sources.SHARED]
_INCLUDE = re.compile(r'^#include "(\w+\.metal)"$', re.MULTILINE)
# A function, a type or a constant, where its declaration begins.
_DECLARED = re.compile(
    r"^(?:template <[^{}]*?>\s*)?(?:struct|constant constexpr \w+|inline \w+|[\w:]+(?:<[^()]*>)?)"
    r"\s+(\w+)(?=\s*[({=])",
    re.MULTILINE,
)


def declared(file: str) -> set[str]:
    return set(_DECLARED.findall((sources.SHARED / file).read_text(encoding="utf-8")))


def test_names_are_found() -> None:
    assert {"block_sum", "block_max", "softplus", "expert_score"} == declared("common.metal")
    assert {"StoredRow", "FP4_BLOCK", "load_key"} <= declared("formats.metal")
    assert {"Lanes", "number_at", "sinkhorn", "stream_gate"} <= declared("streams.metal")


@pytest.mark.parametrize("file", [pytest.param(file, id=file.stem) for file in FILES])
def test_a_file_uses_each_file_that_it_names(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", text))
    for included in _INCLUDE.findall(text):
        assert declared(included) & words, f"{file.name} uses nothing of {included}"


@pytest.mark.parametrize("file", TEXTS)
def test_a_text_names_every_file_of_whose_functions_it_uses_some(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", text.partition(sources.BODY)[2]))
    carried = sources.included(file.name, text)
    own = set(_DECLARED.findall(text.partition(sources.BODY)[0]))
    for shared in sources.SHARED.glob("*.metal"):
        calls = (declared(shared.name) - own) & words
        called = {name for name in calls if re.search(rf"\b{name}(?:<[^;]*?>)?\(", text)}
        assert shared.name in carried or not called, f"{file.name} calls {called}"


def test_shared_files_stand_once_each_and_after_those_they_use() -> None:
    header, _ = sources.text("metal", "hc_collapse")
    places = [header.index(f"{name}(") for name in ("float round_bf16", "float block_sum")]
    assert header.count("float round_bf16(") == header.count("float block_sum(") == 1
    assert max(places) < header.index("struct Streams")
    assert "#include" not in header and "to_e4m3" not in header


def test_lines_keep_their_numbers_on_cuda() -> None:
    header, _ = sources.text("cuda", "hc_collapse")
    own = (sources.SHARED / "streams.metal").read_text(encoding="utf-8").split("\n")
    part = header.split('#line 1 "streams.metal"\n')[1].split("\n")
    assert part[own.index("// The N streams of one token at one channel.")] == (
        "// The N streams of one token at one channel."
    )


def test_a_kernel_that_shares_nothing_carries_nothing() -> None:
    for name in ("swiglu", "expert_sum", "dense_matvec", "embed_streams", "index_select"):
        header, _ = sources.text("metal", name)
        own = sources.path("metal", name).read_text(encoding="utf-8")
        assert header == f'\n#line 1 "{name}.metal"\n{own.partition(sources.BODY)[0]}'
