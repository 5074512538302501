"""One text that does not build is one sentence that names it, and nothing runs on by itself.

A planted error stands in for the compiler of a GPU; the other texts run in metalhost.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dsv4_mlx.broken_kernels import first_line, is_about_kernels
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.errors import KernelError
from dsv4_mlx.loading import load_model
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.warm_up import WarmUp
from dsv4_mlx.weights.checkpoint import open_checkpoint
from metal_kernels import sources
from metal_kernels.diagnosis import broken, users
from metal_kernels.registry import bind
from metal_kernels.variants import recording
from tests.cli.running import run
from tests.kernels.host import host_plan

pytestmark = pytest.mark.needs("metalhost")

UNBUILT = """[metal::Device] Unable to build metal library from source
program_source:1:10: note: in file included from
index_select.metal:7:13: error: use of undeclared identifier 'shared'
"""
REFUSED = (
    "Thread group size (512) is greater than  the maximum allowed threads per threadgroup (448)."
)
PROMPT = range(3, 25)
SELECTING = range(3, 8 + 4 * (TINY.index_topk + 1))
"""Long enough that an indexer has to choose."""


@pytest.fixture(autouse=True)
def on_a_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Texts run here; nothing is compiled ahead, on a thread that would not know so."""
    monkeypatch.setattr(WarmUp, "start", lambda self: None)
    with host_plan("fast"):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), TINY)


@pytest.fixture
def plant(on_a_host: None) -> Iterator[Callable[..., None]]:
    """`plant(text, said)`: MLX refuses each launch of a text, or the first `times`, saying so."""
    own = sources.built

    def planted(text: str, said: str, times: int | None = None) -> None:
        build, left = sources.built, [times]

        def built(backend: str, name: str, *signature: tuple[str, ...]) -> Any:
            def fail(**call: Any) -> Any:
                if left[0] is not None:
                    left[0] -= 1
                    if left[0] < 0:
                        return build(backend, name, *signature)(**call)
                raise RuntimeError(said)

            return fail if name == text else build(backend, name, *signature)

        sources.built = built

    yield planted
    sources.built = own


def engine(folder: Path, left_out: tuple[str, ...] = ()) -> Engine:
    plan = bind("metal", left_out)
    return Engine(load_model(open_checkpoint(folder), dtype=mx.bfloat16, kernels=plan))


def test_the_sentence_names_kernel_variant_and_the_way_round(
    folder: Path, plant: Callable[..., None]
) -> None:
    plant("index_select", UNBUILT)
    session = engine(folder).session()
    with pytest.raises(KernelError) as error:
        session.sync(SELECTING)
    said = str(error.value)
    assert said.startswith("the kernel index_topk does not run here: index_select: ")
    assert "(index_select.metal:7:13: error: use of undeclared identifier 'shared')" in said
    assert "`dsv4-chat --kernels metal,-index_topk` goes on with its reference, slower" in said
    assert said.endswith("`make report` writes what to send.") and "\n" not in said
    assert isinstance(error.value.__cause__, RuntimeError)


def test_the_command_line_of_the_sentence_helps(folder: Path, plant: Callable[..., None]) -> None:
    plant("index_select", UNBUILT)
    session = engine(folder, ("index_topk",)).session()
    session.sync(SELECTING)
    assert [token.id for token in session.stream(2, stop_ids=())]


def test_a_second_kernel_is_left_out_beside_the_first(
    folder: Path, plant: Callable[..., None]
) -> None:
    plant("swiglu", REFUSED)
    with pytest.raises(KernelError, match="--kernels metal,-index_topk,-swiglu`"):
        engine(folder, ("index_topk",)).session().sync(PROMPT)


def test_kernels_that_share_a_text_are_left_out_together(
    folder: Path, plant: Callable[..., None]
) -> None:
    assert users("hc_collapse", "metal") == ("hc_pre", "hc_post_pre")
    plant("hc_collapse", REFUSED)
    session = engine(folder).session()
    with pytest.raises(KernelError, match="the kernel hc_pre and hc_post_pre does not run here"):
        session.sync(PROMPT)
    again = engine(folder, ("hc_pre", "hc_post_pre")).session()
    again.sync(PROMPT)


def test_decoding_says_it_too(folder: Path, plant: Callable[..., None]) -> None:
    session = engine(folder).session()
    session.sync(PROMPT)
    plant("router", REFUSED)
    with pytest.raises(KernelError, match="the kernel router does not run here: router: "):
        next(session.stream(1))


def test_an_error_that_nothing_raises_alone_blames_no_kernel(
    folder: Path, plant: Callable[..., None]
) -> None:
    """A GPU's error comes in whatever is evaluated next, once."""
    plant("router", "[METAL] Command buffer execution failed: Caused GPU Timeout Error", times=1)
    session = engine(folder).session()
    with pytest.raises(KernelError) as error:
        session.sync(PROMPT)
    assert str(error.value) == (
        "MLX failed on metal ([METAL] Command buffer execution failed: Caused GPU Timeout Error) "
        "and each kernel runs alone; `dsv4-chat --no-compile` replays no graph, and `make report` "
        "tests everything and writes what to send."
    )
    session.sync(PROMPT)  # and the session goes on


def test_a_form_that_fails_once_is_not_broken(plant: Callable[..., None]) -> None:
    case = bind("metal").ops.swiglu
    with recording() as seen:
        case(mx.zeros((2, 8)), limit=7.0)
    plant("swiglu", REFUSED, times=1)
    assert broken(seen.values(), "metal") == []
    plant("swiglu", REFUSED)
    (found,) = broken(seen.values(), "metal")
    assert found.variant.text == "swiglu" and found.said == REFUSED


def test_memory_and_other_errors_pass_as_they_are(folder: Path, plant: Callable[..., None]) -> None:
    full = "[METAL] Command buffer execution failed: Insufficient Memory (kIOGPU...OutOfMemory)"
    assert not is_about_kernels(RuntimeError(full))
    assert not is_about_kernels(KeyboardInterrupt("kernel"))
    assert not is_about_kernels(RuntimeError("told to fail"))
    plant("router", full)
    with pytest.raises(RuntimeError, match="Insufficient Memory"):
        engine(folder).session().sync(PROMPT)


def test_what_a_compiler_says_is_one_line() -> None:
    assert first_line(UNBUILT).startswith("index_select.metal:7:13: error: ")
    assert first_line(" a\n  b\n") == "a"
    assert first_line("") == "it did not say why"
    assert len(first_line("x" * 5000)) == 301


def open_model(folder: Any, options: Any) -> tuple[Engine, Tokenizer]:
    left_out = tuple(sorted(options.backend.split(",-")[1:]))
    model = load_model(folder.checkpoint, dtype=mx.bfloat16, kernels=bind("metal", left_out))
    return Engine(model), Tokenizer(folder.folder)


def test_the_chat_program_prints_a_sentence_and_no_traceback(
    folder: Path, plant: Callable[..., None]
) -> None:
    plant("router", UNBUILT)
    options = ["--model", folder, "-p", "hello", "--max-tokens", "1", "--no-save"]
    ran = run(*options, open_model=open_model)
    assert ran.status == 1 and ran.stdout == ""
    assert "Traceback" not in ran.stderr
    (line,) = [line for line in ran.stderr.splitlines() if "does not run here" in line]
    # Another thread has metalhost's checks on, which may refuse a text of zeros as well.
    assert line.startswith("dsv4-chat: the kernel router") and "not run here: router: " in line


def test_what_is_left_out_is_said_once_at_start(folder: Path) -> None:
    """`auto` is the CPU here, so the model is given the Metal plan."""
    options = ["--model", folder, "--max-tokens", "1", "--no-save", "--kernels=auto,-router"]
    ran = run(*options, typed="hello\nhello\n/quit\n", open_model=open_model)
    assert ran.status == 0, ran.stderr
    assert (ran.stdout + ran.stderr).count(
        "[kernels left out: router (references run instead, slower)]"
    ) == 1
