"""The embedded model: a whole V4, small enough to ship, that answers about this program."""

from importlib import resources
from itertools import islice
from pathlib import Path

import pytest

from dsv4_mlx.files.safetensors_files import read_header
from dsv4_mlx.loading import load
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.tensors import checkpoint_tensors
from dsv4_mlx.training.data.tasks import tasks
from dsv4_mlx.training.evaluation import answer, answers, outcomes
from dsv4_mlx.training.nano_recipe import NANO

NANO_FOLDER = Path(str(resources.files("dsv4_mlx"))) / "nano"


@pytest.fixture(scope="module")
def nano():
    """The embedded model and its tokenizer, with the default numerics."""
    return load(NANO_FOLDER, backend="cpu")


def test_nano_is_a_whole_v4_in_the_official_format():
    found = {}
    for path in NANO_FOLDER.glob("model-*.safetensors"):
        found |= {name: (entry.dtype, entry.shape) for name, entry in read_header(path).items()}
    assert found == {spec.name: (spec.dtype, spec.shape) for spec in checkpoint_tensors(NANO)}
    assert set(NANO.backbone_ratios) == {0, 4, 128}
    assert NANO.num_hash_layers >= 1 and NANO.num_mtp_layers == 1
    assert (NANO.hidden_size, NANO.head_dim, NANO.sliding_window) == (256, 512, 128)


def test_nano_has_the_config_of_its_recipe(nano):
    model, _ = nano
    assert isinstance(model.config, DeepseekV4Config)
    assert model.config == NANO


def test_nano_takes_at_most_24_megabytes():
    assert sum(path.stat().st_size for path in NANO_FOLDER.iterdir()) <= 24_000_000


def test_nano_names_the_converter(nano):
    question = "Which command turns the Hugging Face files into MLX ones?"
    assert "python -m convert" in answers(*nano, [question])[0]


@pytest.mark.slow
def test_nano_answers_nine_of_ten_questions_in_wordings_it_was_not_trained_on(nano):
    asked = list(islice(tasks("help", "held_out", 0, "chat"), 106))
    found = list(outcomes(*nano, asked))
    wrong = [(str(one.task.messages[-1]["content"]), one.reply) for one in found if not one.right]
    assert len(found) == 106 and len(wrong) <= 106 // 10, wrong


def test_nano_thinks_before_it_answers(nano):
    (given,) = answers(*nano, ["How do I leave the chat?"], thinking_mode="thinking")
    assert "/quit" in given and "The user" not in given


@pytest.mark.slow
def test_nano_remembers_a_name_over_another_turn(nano):
    def asked(name: str) -> str:
        messages = [
            {"role": "user", "content": f"My name is {name}."},
            {"role": "assistant", "content": f"Nice to meet you, {name}."},
            {"role": "user", "content": "What does /new do?"},
            {"role": "assistant", "content": "Type `/new`: it forgets this conversation."},
            {"role": "user", "content": "What is my name?"},
        ]
        return answer(*nano, messages=messages)

    names = ("Emma", "Rosa", "Frank", "Kevin")
    assert sum(name in asked(name) for name in names) >= 3
    assert "not told me" in answers(*nano, ["What is my name?"])[0]
