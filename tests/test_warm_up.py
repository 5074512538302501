"""The forms that are compiled while weights load: all that a session meets; nothing waits."""

from collections.abc import Iterable
from pathlib import Path
from threading import Event

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.cache import side_by_side
from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.streamed_experts import StreamedExperts
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.pipeline.part_loading import load_part
from dsv4_mlx.release.config import FLASH, PRO, DeepseekV4Config
from dsv4_mlx.release.engram import EngramConfig
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.tracing import release_plan
from dsv4_mlx.unloaded import cache_after
from dsv4_mlx.warm_up import Shapes, WarmUp, session_launches, shortened
from dsv4_mlx.weights.checkpoint import open_checkpoint
from dsv4_mlx.weights.expert_slots import SlotPool
from dsv4_mlx.weights.planning import plan_parameters
from metal_kernels import registry, sources
from metal_kernels.variants import Variant, recording
from tests.kernels.host import host_plan
from tests.metalhost.report import MetalHostError
from tests.model import streamed


def shapes(config: DeepseekV4Config, rows: int = 1) -> Shapes:
    plan = release_plan(shortened(config))
    return Shapes(config, plan, registry.bind("metal"), Numerics.OFFICIAL, None, mx.bfloat16, rows)


def session(model: Model) -> set[Variant]:
    """What a first prompt, its first 64 tokens, the tokens at 2,048 and a second turn launch."""
    selecting = 4 * model.config.index_topk
    calls = [(0, 512), (512, 37), (0, 37), *((37 + i, 1) for i in range(64))]
    calls += [(selecting - 8 + i, 1) for i in range(16)]
    calls += [(selecting + 8, tokens) for tokens in range(2, 20)] + [(selecting + 8, 200)]
    with recording() as seen:
        for context, tokens in calls:
            cache = cache_after(model, context, 1)
            model.last_logits(mx.zeros((1, tokens), mx.int32), cache)
    return set(seen)


def passes(model: Model, rows: int) -> set[Variant]:
    """What tokens with drafts launch after a prompt of 37 tokens, and at 2,048."""
    selecting = 4 * model.config.index_topk
    calls = [(first + 3 * n, n) for first in (37, 120, selecting - 8) for n in range(2, rows + 1)]
    with recording() as seen:
        for context, tokens in calls:
            model(mx.zeros((1, tokens), mx.int32), cache_after(model, context, 1))
    return set(seen)


def rounds(model: Model, rows: int) -> set[Variant]:
    """What tokens of several timelines launch, some of which select."""
    selecting = 4 * model.config.index_topk
    with recording() as seen:
        for count in range(2, rows + 1):
            places = [(37, 120, selecting + 8)[n % 3] + n for n in range(count)]
            caches = [cache_after(model, place, 1) for place in places]
            model(mx.zeros((1, count), mx.int32), side_by_side(caches))
    return set(seen)


@pytest.mark.parametrize(
    ("config", "rows"),
    [
        pytest.param(FLASH, 1, id="flash", marks=pytest.mark.slow),
        pytest.param(PRO, 1, id="pro", marks=pytest.mark.slow),
        pytest.param(TINY, 1, id="tiny"),
        pytest.param(FLASH, 8, id="flash-8-rows"),
        pytest.param(TINY, 8, id="tiny-8-rows", marks=pytest.mark.slow),
        pytest.param(TINY, 4, id="tiny-4-rows"),
    ],
)
def test_a_session_meets_no_form_that_was_not_built(config: DeepseekV4Config, rows: int) -> None:
    model = shapes(config, rows).blank()
    assert model.exact_rows == rows
    listed, met = set(session_launches(model)), session(model) | passes(model, rows)
    assert {str(one) for one in rounds(model, rows) - listed} == set()
    assert any(one.text == "packed_matvec" for one in met) == (rows > 1)
    assert {str(one) for one in met - listed} == set()
    assert {str(one) for one in listed - met} == set()


@pytest.mark.parametrize("config", [FLASH, PRO], ids=["flash", "pro"])
def test_the_layers_left_out_are_of_kinds_that_stay(config: DeepseekV4Config) -> None:
    short = shortened(config)
    roles = {(role.ratio, role.selects) for role in config.layer_roles}
    assert {(role.ratio, role.selects) for role in short.layer_roles} == roles
    assert short.num_hash_layers < short.num_hidden_layers < 8


def test_recording_launches_nothing_and_ends_with_its_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "built", None)
    x, weight = mx.zeros((1, 64)), mx.zeros((8, 64))
    ops = registry.bind("metal").ops
    with recording() as seen:
        assert ops.dense_matvec(x, weight).tolist() == [[0.0] * 8]
    assert [one.text for one in seen] == ["dense_matvec"]
    with pytest.raises(TypeError):
        ops.dense_matvec(x, weight)


@pytest.mark.slow
def test_every_form_is_built_by_zeros_within_bounds() -> None:
    """In the checked mode of the host runner, which finds reads outside of an array."""
    with host_plan():
        warm_up = WarmUp(shapes(TINY))
        launches = session_launches(warm_up._shapes.blank())
        for launched in launches.values():
            try:
                launched.build("metal")
            except MetalHostError as found:
                # A table of zeros has no block with a row: nothing to read and nothing to write.
                if (launched.variant.text, found.kind) != ("expert_matmul", "unwritten output"):
                    raise
    assert len(launches) > 30


def planted(monkeypatch: pytest.MonkeyPatch, first: Event, go_on: Event) -> list[str]:
    """Replace MLX's compiler by one that waits in its first form and refuses `swiglu`."""
    compiled: list[str] = []

    def built(backend: str, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> object:
        def kernel(**call: list[object]) -> list[mx.array]:
            first.set()
            go_on.wait()
            if name == "swiglu":
                raise ValueError("no such instruction")
            compiled.append(name)
            return []

        return kernel

    monkeypatch.setattr(sources, "built", built)
    monkeypatch.setattr(mx, "set_default_device", lambda device: None)
    return compiled


def test_a_refused_form_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = Event()
    go_on.set()
    compiled = planted(monkeypatch, Event(), go_on)
    warm_up = WarmUp(shapes(TINY))
    warm_up.start()
    warm_up.join()
    assert {one.text for one in warm_up.failed} == {"swiglu"}
    assert (
        len(compiled)
        == len(warm_up.built)
        == len(session_launches(shapes(TINY).blank())) - len(warm_up.failed)
    )


def test_the_first_tokens_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    first, go_on = Event(), Event()
    compiled = planted(monkeypatch, first, go_on)
    warm_up = WarmUp(shapes(TINY))
    warm_up.start()
    first.wait()
    warm_up.abandon()  # does not wait for the form in the compiler
    assert compiled == []
    go_on.set()
    warm_up.join()
    assert len(compiled) == 1


def test_a_model_tells_at_its_first_tokens_and_once() -> None:
    model, told = Model(TINY, backend="cpu"), []
    model.at_first_call = lambda: told.append("over")
    model.streams(mx.zeros((1, 1), mx.int32))
    model.streams(mx.zeros((1, 1), mx.int32))
    assert told == ["over"]


def test_a_load_that_fails_warms_nothing_up_any_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(write_tiny_checkpoint(tmp_path))
    first, go_on = Event(), Event()
    compiled = planted(monkeypatch, first, go_on)
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    started: list[WarmUp] = []
    start = WarmUp.start
    monkeypatch.setattr(WarmUp, "start", lambda one: (started.append(one), start(one)))

    def damaged(*_: object) -> list[object]:
        first.wait()
        raise CheckpointError("a shard is cut short")

    monkeypatch.setattr("dsv4_mlx.loading.read_weights", damaged)
    with pytest.raises(CheckpointError):
        load_model(checkpoint, kernels=registry.bind("metal"))
    go_on.set()
    started[0].join()
    assert len(compiled) == 1


def test_loading_warms_a_gpu_up_and_no_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    go_on = Event()
    go_on.set()
    checkpoint = open_checkpoint(write_tiny_checkpoint(tmp_path_factory.mktemp("tiny")))
    compiled = planted(monkeypatch, Event(), go_on)
    assert load_model(checkpoint, backend="cpu").at_first_call is None
    assert compiled == []
    # A plan for a GPU on a CPU: for those who look at its graph.
    assert load_model(checkpoint, kernels=registry.bind("metal")).at_first_call is None
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    model = load_model(checkpoint, kernels=registry.bind("metal"))
    assert model.at_first_call is not None
    model.at_first_call()


class OneOfTwo:
    def rank(self) -> int:
        return 1

    def size(self) -> int:
        return 2


def test_loading_a_part_or_with_experts_in_files_warms_up_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = streamed.written(tmp_path, "official")
    checkpoint, kernels, go_on = open_checkpoint(folder), registry.bind("metal"), Event()
    go_on.set()
    compiled = planted(monkeypatch, Event(), go_on)
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    found = []
    for memory in (None, streamed.memory_of(folder, 3)):
        model = load_model(checkpoint, kernels=kernels, drafts=False, expert_memory=memory)
        assert model.finish_warm_up is not None
        model.finish_warm_up()
        found.append(sorted(compiled))
        compiled.clear()
    load_part(checkpoint, OneOfTwo(), kernels=kernels)
    whole, streams = found
    assert whole == sorted(compiled) and len(compiled) > 20
    assert streams == sorted([*compiled, "expert_blocks"]), "of as many experts as there are slots"


def test_experts_in_files_meet_no_form_that_was_not_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Prompts of whole layers and in waves, tokens whose experts are there, and partly there."""
    folder = streamed.written(tmp_path, "official")
    checkpoint, kernels = open_checkpoint(folder), registry.bind("metal")
    plan = plan_parameters(checkpoint)
    blank = Shapes(checkpoint.config, plan, kernels, Numerics.OFFICIAL, None, mx.bfloat16).blank()
    listed, split = set(session_launches(blank, slots=4)), []
    model = load_model(checkpoint, kernels=kernels, expert_memory=streamed.memory_of(folder, 4))
    k, E = model.config.num_experts_per_tok, model.config.n_routed_experts

    def ids(self: StreamedExperts, experts: mx.array, shared: mx.array) -> np.ndarray:
        return (np.arange(experts.size, dtype=np.uint32) % E).reshape(experts.shape)

    def pending(self: SlotPool, experts: Iterable[int]) -> list[int]:
        split.append(found := list(experts)[: k // 2])
        return found

    monkeypatch.setattr(StreamedExperts, "_ids", ids)
    with recording() as met:
        for context, tokens in ((0, 200), (0, 37), (0, 3), (7, 1), (130, 1), (2_100, 1)):
            prompt = mx.zeros((1, tokens), mx.int32)
            if tokens > 1:
                cache = cache_after(model, context, 1)
                model.read_by_layers(
                    prompt, cache, chunk=64, moments=(), before_layer=lambda layer: True
                )
            model.last_logits(prompt, cache_after(model, context, 1))
            monkeypatch.setattr(SlotPool, "pending", pending)
    assert split and {str(one) for one in set(met) - listed} == set()


def test_engram_is_among_the_forms_and_its_layers_are_kept() -> None:
    config = TINY.replace(engram=EngramConfig((1, 4), 300, 200, 3, 2, 32))
    short = shortened(config)
    assert short.engram is not None and short.engram.layer_ids[0] == 1
    texts = {variant.text for variant in session_launches(shapes(config).blank())}
    assert {"engram_rows", "engram_gate"} <= texts
