"""Two workers for two cores: the same training but for the order of sums, and no process left."""

import os
import signal
import subprocess
import sys
from contextlib import closing
from itertools import islice
from multiprocessing import Pipe
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.errors import TrainingError, UsageError
from dsv4_mlx.testing.tokenizers import write_tokenizer
from dsv4_mlx.training.data.batches import Batch
from dsv4_mlx.training.data.tasks import tasks
from dsv4_mlx.training.exchange import FirstExchange
from dsv4_mlx.training.nano_recipe import NanoRecipe, Phase, Pretraining
from dsv4_mlx.training.objective import NanoObjective
from dsv4_mlx.training.runs import TrainingRun
from dsv4_mlx.training.shared_arrays import SharedArrays
from dsv4_mlx.training.step_part import owners_of
from dsv4_mlx.training.stored_weights import write_release
from dsv4_mlx.training.workers import ParallelTrainer, require_rows
from tests.training import tiny

CONFIG = tiny.TINY.replace(index_topk=4)
PHASES = (Phase(1, 3, 24, "off"), Phase(1, 2, 40, "dense"), Phase(1, 2, 40, "sparse"))


def drawn(number: int, phase: Phase) -> Batch:
    """Rows of different worth, so that a mean of two means is not that of all."""
    rng = np.random.default_rng([5, number])
    shape = (phase.rows, phase.length + 2)
    tokens = rng.integers(0, CONFIG.vocab_size, shape).astype(np.int32)
    return Batch(tokens, rng.random(shape, np.float32) ** 3)


@pytest.mark.parametrize("indexing", ["off", "dense", "sparse"])
def test_parts_of_a_batch_add_up_to_what_the_whole_gives(indexing):
    trained, fixed = tiny.weights(0)
    objective = NanoObjective(CONFIG, fixed)
    objective.set_indexing(indexing)
    whole = drawn(0, Phase(1, 3, 40, indexing))
    parts = [Batch(whole.tokens[rows], whole.weights[rows]) for rows in (slice(2), slice(2, 3))]
    (loss, extras), gradients = mx.value_and_grad(objective)(trained, whole)
    told: list[np.ndarray] = []

    def listens(values: np.ndarray) -> np.ndarray:
        told.append(values)
        return values

    objective.summed = listens
    for part in parts:
        objective(trained, part)
    objective.summed = lambda values: sum(told)
    found = [mx.value_and_grad(objective)(trained, part) for part in parts]
    assert sum(part.item() for (part, _), _ in found) == pytest.approx(loss.item(), rel=1e-5)
    for name, value in extras.items():
        of_parts = [np.array(one[name]) for (_, one), _ in found]
        if value.ndim:  # loads are those of the whole batch in each part
            np.testing.assert_array_equal(of_parts, [np.array(value)] * 2)
        else:
            assert sum(of_parts) == pytest.approx(value.item(), rel=1e-5), name
    longest = max(np.linalg.norm(np.array(gradient)) for gradient in gradients.values())
    for name, gradient in gradients.items():
        total = np.array(sum(one[name] for _, one in found))
        far = np.linalg.norm(total - np.array(gradient))
        # a scalar's gradient is a sum in which nearly everything cancels
        bound = 1e-4 * np.linalg.norm(np.array(gradient)) + 1e-7 * longest
        assert far <= bound, name


def stage_of(workers: int) -> Pretraining:
    return Pretraining(NanoRecipe(phases=PHASES), CONFIG, drawn, workers=workers)


def arrays(path: Path) -> dict[str, np.ndarray]:
    loaded = mx.load(str(path))
    assert isinstance(loaded, dict)
    return {name: np.array(value) for name, value in loaded.items()}


def test_two_workers_train_as_one_go_on_bit_for_bit_and_end_together(tmp_path):
    alone, first, again = (stage_of(workers) for workers in (1, 2, 2))
    with TrainingRun(tmp_path / "alone") as run:
        assert run.go_on(alone.trainer, 3, alone.step)
        expected = run.curve()
    with TrainingRun(tmp_path / "unbroken") as run, closing(first.trainer):
        states: list[bytes] = []
        run.go_on(
            first.trainer,
            3,
            first.step,
            save_every=2,
            saved=lambda: states.append(run.state.read_bytes()),
        )
        curve = run.curve()
    for one, other in zip(curve, expected, strict=True):
        for name in ("loss", "nll", "mtp", "index", "recall"):
            assert one[name] == pytest.approx(other[name], rel=1e-3, nan_ok=True), name
    with TrainingRun(tmp_path / "resumed") as run, closing(again.trainer):
        run.state.write_bytes(states[0])
        assert run.go_on(again.trainer, 3, again.step)
        kept, other = arrays(run.state), arrays(tmp_path / "unbroken" / "state.safetensors")
        assert kept.keys() == other.keys() == arrays(tmp_path / "alone" / run.state.name).keys()
        assert all(np.array_equal(value, other[name]) for name, value in kept.items())
        trainer = again.trainer
        assert isinstance(trainer, ParallelTrainer)
        (process,) = trainer.processes
        process.kill()
        with pytest.raises(TrainingError, match=r"number 2 was ended by SIGKILL.*same command"):
            trainer.step(drawn(3, PHASES[-1]))
        assert all(np.array_equal(value, kept[name]) for name, value in arrays(run.state).items())
    assert process.poll() is not None and trainer.processes == []


def test_sums_reach_every_worker_and_a_failure_is_one_sentence():
    link, theirs = Pipe()
    first = FirstExchange([link], [])
    theirs.send(("values", np.array([1.0, 2.0])))
    assert first.summed([3.0, 4.0]).tolist() == [4, 6] == theirs.recv().tolist()
    theirs.send(("failed", "ValueError: no"))
    with pytest.raises(TrainingError, match=r"2 workers.*number 2 failed: ValueError: no"):
        first.summed([1.0])


@pytest.mark.parametrize("system", ["with memfd", "without"])
def test_what_one_process_writes_another_reads(monkeypatch, system):
    if system == "without":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    shapes = {"matrix": (3, 5), "scalar": (), "vector": (17,)}
    first = SharedArrays(shapes, 2)
    other = SharedArrays(shapes, 2, os.dup(first.descriptor))
    first.close()
    made = {name: mx.random.normal(shape) for name, shape in shapes.items()}
    mx.eval(made)
    first.write(0, made)
    other.write(1, {"vector": mx.ones(17)})
    for store in (first, other):
        for name, value in store.read(0, shapes).items():
            assert mx.array_equal(value, made[name])
        added = store.added([0, 1], ["vector"])["vector"]
        assert mx.array_equal(added, made["vector"] + 1)
    other.close()


def test_parameters_are_shared_out_evenly_and_always_the_same_way():
    costs = {f"p{number}": float(1 + number % 7) for number in range(40)}
    owners = owners_of(costs, 3)
    busy = [sum(costs[name] for name, one in owners.items() if one == rank) for rank in range(3)]
    assert max(busy) - min(busy) <= 1
    assert owners == owners_of(dict(reversed(costs.items())), 3)


def test_another_number_of_workers_is_refused(tmp_path):
    TrainingRun(tmp_path, {"seed": 7}).close()  # as runs of before were begun
    TrainingRun(tmp_path, {"seed": 7, "workers": 1}).close()
    with pytest.raises(UsageError, match=r"expected workers 1.*begun, but found 2"):
        TrainingRun(tmp_path, {"seed": 7, "workers": 2})


@pytest.mark.parametrize("workers", [0, 3])
def test_each_worker_needs_a_row(workers):
    require_rows(2, 2)
    with pytest.raises(UsageError, match=f"1 to 2 workers.*found {workers}"):
        require_rows(workers, 2)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A tiny model in the official format."""
    folder = tmp_path_factory.mktemp("base")
    asked = [task.prompt() for task in islice(tasks("arithmetic", "train", 0), 30)]
    texts = [text for prompt in asked for text, is_control in prompt.segments if not is_control]
    write_tokenizer(folder, texts, tiny.TINY.vocab_size)
    trained, fixed = tiny.weights(0)
    write_release(folder, tiny.TINY, trained | fixed, shard_bytes=1 << 30)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 3), (signal.SIGKILL, -9)])
def test_a_signal_ends_the_run_and_leaves_no_process(base, tmp_path, number, status):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "dsv4_mlx.training.post", "sft", str(run), "--from", str(base)]
    sizes = ["--workers", "2", "--rows", "2", "--length", "48", "--steps", "100000"]
    scores = ["--score-prompts", "1", "--max-tokens", "2", "--score-every", "100000"]
    with subprocess.Popen(
        [*command, *sizes, *scores], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        assert program.stderr is not None
        assert any("step 2 of" in line for line in program.stderr)
        if number == signal.SIGINT:
            os.killpg(program.pid, number)  # as the terminal does: to all of them
        else:
            program.kill()
        program.stderr.read()  # its end: neither process holds it any more
        assert program.wait() == status
    if number == signal.SIGINT:
        with pytest.raises(ProcessLookupError):
            os.killpg(program.pid, 0)
        with TrainingRun(run) as kept:
            assert kept.steps == kept.curve()[-1]["step"] >= 2
            assert '"workers": 2' in (run / "run.json").read_text()
