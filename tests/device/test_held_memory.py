"""What stays resident for a model: asked for once before anything is made, bounded, given back.

No machine here has residency sets, so a device that records stands in MLX's place.
"""

import gc
import logging
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dsv4_mlx.device import memory
from dsv4_mlx.device.memory import CACHE_BYTES, GROWTH_BYTES, HEADROOM_BYTES, HeldMemory, hold
from dsv4_mlx.engine import session as sessions
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.sizing.costs import Costs
from dsv4_mlx.sizing.held import MARGIN_BYTES
from dsv4_mlx.sizing.machines import WORKING_BYTES
from dsv4_mlx.sizing.prefill import CONTEXT, LONG_CHUNK, chunk_bytes
from dsv4_mlx.testing.checkpoints import LONG, TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from metal_kernels import registry
from tests.device.devices import GIB, MEMORY, RecordingDevice, install


@pytest.fixture(autouse=True)
def no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no compiler of kernels; that a warm-up begins is an event like others."""

    def start(_: object) -> None:
        if isinstance(memory.mx, RecordingDevice):
            memory.mx.events.append(("warm-up",))

    monkeypatch.setattr("dsv4_mlx.loading.WarmUp.start", start)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> RecordingDevice:
    made = RecordingDevice()
    install(monkeypatch, made)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), TINY, tokenizer=False)


def loaded(folder: Path, **options: Any) -> Model:
    """A model with the Metal plan, which computes nothing while it is loaded."""
    return load_model(open_checkpoint(folder), kernels=registry.bind("metal"), **options)


def array_bytes(model: Model) -> int:
    from mlx.utils import tree_flatten

    return sum(array.nbytes for _, array in tree_flatten(model.parameters()))


def test_loading_wires_once_before_the_first_evaluation(
    folder: Path, device: RecordingDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = mx.eval
    monkeypatch.setattr(
        mx, "eval", lambda *arrays: (device.events.append(("eval",)), evaluate(*arrays))[1]
    )
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)  # a warm-up is for a GPU
    model = loaded(folder)
    assert device.events[0] == ("wired", model.memory.wired)
    assert {event[0] for event in device.events[1:]} == {"warm-up", "eval"}


def test_what_is_wired_are_weights_cache_working_memory_and_a_margin(
    tmp_path: Path, device: RecordingDevice
) -> None:
    config = LONG
    folder = write_tiny_checkpoint(tmp_path, config, tokenizer=False)
    for context in (None, 8_192, 131_072):
        model = loaded(folder, context=context)
        cache = Costs(config).cache_bytes(context or CONTEXT)
        weights = array_bytes(model)
        assert model.memory.wired == device.wired
        working = WORKING_BYTES + chunk_bytes(config, LONG_CHUNK)
        assert model.memory.wired == weights + cache + working + MARGIN_BYTES
        del model
    assert Costs(LONG).cache_bytes(131_072) > Costs(LONG).cache_bytes(CONTEXT)


def test_no_more_is_wired_than_the_device_recommends(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = RecordingDevice(recommended=3 * GIB)
    install(monkeypatch, device)
    model = loaded(folder)
    assert device.limits == [3 * GIB]
    assert model.memory.wired == 3 * GIB and not model.memory.problem


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_other_backends_wire_nothing(folder: Path, device: RecordingDevice, backend: str) -> None:
    plan = registry.bind(backend)  # type: ignore[arg-type]
    model = load_model(open_checkpoint(folder), kernels=plan)
    assert model.memory.wired == 0 and not model.memory.problem
    model.memory.keep_up()
    model.memory.release()
    assert device.limits == [] and ("synchronize",) not in device.events


def test_a_plan_without_its_gpu_wires_nothing(folder: Path) -> None:
    """What tracing and the tests of texts load: MLX itself has no Metal here."""
    if not mx.metal.is_available():
        assert loaded(folder).memory.wired == 0


def test_the_cache_of_freed_arrays_is_bounded_while_a_model_is_there(
    folder: Path, device: RecordingDevice
) -> None:
    model = loaded(folder)
    assert device.cache == CACHE_BYTES
    del model
    assert device.cache == MEMORY


def test_a_smaller_bound_of_the_cache_stays(device: RecordingDevice) -> None:
    """A CPU has one of 32 MiB."""
    device.cache = 32 << 20
    held = hold("cpu", 0)
    assert device.cache == 32 << 20
    held.release()
    assert device.cache == 32 << 20


def test_letting_go_restores_what_was_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = RecordingDevice(wired=5 * GIB)
    install(monkeypatch, device)
    model = loaded(folder)
    assert device.wired == 5 * GIB + model.memory.wanted == model.memory.wired
    model.memory.release()
    assert device.wired == 5 * GIB
    model.memory.release()
    assert device.limits[-1] == 5 * GIB and model.memory.wired == 0


def test_a_model_that_is_collected_lets_go(folder: Path, device: RecordingDevice) -> None:
    model = loaded(folder)
    assert device.wired > 0
    del model
    gc.collect()
    assert device.wired == 0


def test_of_two_models_the_first_may_go_first(folder: Path, device: RecordingDevice) -> None:
    """`/model` loads the next one while somebody may still hold the one before."""
    first = loaded(folder)
    second = loaded(folder)
    assert device.wired == first.memory.wanted + second.memory.wanted
    del first
    gc.collect()
    assert device.wired == second.memory.wanted
    second.memory.release()
    assert device.wired == 0


def test_a_model_that_cannot_be_loaded_holds_nothing(
    folder: Path, device: RecordingDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object) -> None:
        raise CheckpointError("a damaged file.")

    monkeypatch.setattr("dsv4_mlx.loading.read_weights", damaged)
    with pytest.raises(CheckpointError):
        loaded(folder)
    assert device.limits[0] > 0 and device.wired == 0 and device.cache == MEMORY


def test_macos_14_is_told_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device, said = RecordingDevice(), []
    install(monkeypatch, device, macos="14.7.1")
    model = loaded(folder, say=said.append)
    assert said == [
        "macOS 14.7.1 keeps no model resident in memory, which takes macOS 15; a large model may "
        "be many times slower here, so update macOS."
    ]
    assert device.limits == [] and model.memory.wired == 0 and model.memory.problem == said[0]


def test_a_refusal_is_one_line_and_the_model_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    device = RecordingDevice(refusal="[metal::set_wired_limit]\n  no such thing")
    install(monkeypatch, device)
    with caplog.at_level(logging.WARNING):
        model = loaded(folder)
    (record,) = caplog.records
    assert record.getMessage() == model.memory.problem
    assert model.memory.problem == (
        "memory could not be wired ([metal::set_wired_limit] no such thing); a model that fills "
        "much of it may be slow, and `dsv4-chat doctor` says what there is."
    )
    assert model.memory.wired == 0
    model.memory.keep_up()
    model.memory.release()
    assert device.limits == [] and ("synchronize",) not in device.events


# Growth


@pytest.fixture
def engine(folder: Path, device: RecordingDevice) -> Engine:
    """A model that computes here and is held as on a Mac."""
    model = load_model(open_checkpoint(folder), backend="cpu")
    model.memory = hold("metal", 100 * GIB)
    return Engine(model, prefill_chunk=16)


def test_a_session_that_outgrows_the_limit_raises_it(
    engine: Engine, device: RecordingDevice
) -> None:
    session = engine.session()
    device.active = 90 * GIB
    session.sync(range(3, 40))
    assert device.limits == [100 * GIB]
    device.active = 120 * GIB
    session.sync(range(3, 60))
    raised = 120 * GIB + HEADROOM_BYTES + GROWTH_BYTES
    assert device.limits == [100 * GIB, raised] and engine.memory.wired == raised
    assert device.events[-2:] == [("synchronize",), ("wired", raised)]  # while nothing runs
    device.active += GROWTH_BYTES
    session.sync(range(3, 80))
    assert device.wired == raised
    engine.memory.release()
    assert device.wired == 0


def test_generating_raises_it_too(
    engine: Engine, device: RecordingDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_LOOK_EVERY", 8)
    session = engine.session()
    session.sync(range(3, 20))
    device.active = 120 * GIB
    stream = session.stream(12, stop_ids=())
    tokens = [next(stream) for _ in range(8)]
    assert device.limits == [100 * GIB]
    next(stream)
    assert len(device.limits) == 2 and len(tokens) == 8


def test_growth_ends_at_what_the_device_recommends(engine: Engine, device: RecordingDevice) -> None:
    device.active = 500 * GIB
    engine.memory.keep_up()
    assert device.limits[-1] == device.recommended
    device.active = 510 * GIB
    engine.memory.keep_up()
    assert len(device.limits) == 2


def test_nothing_is_held_until_it_is_asked_for() -> None:
    held = HeldMemory()
    held.keep_up()
    held.release()
    assert held.wired == 0 and held.problem == ""


def test_mlx_lms_own_limit_gives_ours_back(
    folder: Path, device: RecordingDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its generation wires what is recommended and then restores what it found."""
    import importlib

    generate = importlib.import_module("mlx_lm.generate")
    model = loaded(folder)
    ours = model.memory.wired
    for module in ("mlx_lm.generate", "mlx_lm.utils"):
        monkeypatch.setattr(importlib.import_module(module), "mx", device)
    monkeypatch.setattr(generate, "tree_reduce", lambda *_: 0)
    with generate.wired_limit(model):
        assert device.wired == device.recommended
    assert device.wired == ours


def test_what_mlx_lms_server_wired_first_is_not_lowered(
    folder: Path, device: RecordingDevice
) -> None:
    device.wired = device.recommended
    model = loaded(folder)
    assert device.wired == model.memory.wired == device.recommended
