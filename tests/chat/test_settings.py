"""What a folder says about chatting with the model in it."""

from pathlib import Path

import pytest

from dsv4_mlx.chat.effort import EffortTable
from dsv4_mlx.chat.settings import ChatSettings, Thinking, thinking_at
from dsv4_mlx.engine.sampling import RANGES, Sampling
from dsv4_mlx.errors import CheckpointError, ConfigError, UsageError
from dsv4_mlx.weights.checkpoint import open_folder
from tests.cli.scripted import write_chat_folder


def settings_of(folder: Path, *table: EffortTable) -> ChatSettings:
    return ChatSettings.of(open_folder(folder), *table)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_chat_folder(tmp_path / "V4-Flash", context=8192)


def test_the_context_is_the_models(folder: Path) -> None:
    assert settings_of(folder) == ChatSettings("2026-04", 8192, Sampling(0.0))


@pytest.mark.parametrize(
    ("stored", "sampling"),
    [
        (None, Sampling(1.0, 1.0)),
        ("{}", Sampling(1.0, 1.0)),
        ('{"do_sample": true, "temperature": 0.6, "top_p": 0.95}', Sampling(0.6, 0.95)),
        ('{"do_sample": false, "temperature": 0.6}', Sampling(0.0)),
        ('{"top_k": 20, "min_p": 0.1}', Sampling(top_k=20, min_p=0.1)),
        ('{"repetition_penalty": 1.05, "temperature": 1}', Sampling(repetition_penalty=1.05)),
        ('{"top_k": -1, "min_p": null, "repetition_penalty": null}', Sampling()),
        ('{"top_k": 40.0, "temperature": null, "top_p": null}', Sampling(top_k=40)),
    ],
)
def test_sampling_comes_from_the_generation_config(
    folder: Path, stored: str | None, sampling: Sampling
) -> None:
    (folder / "generation_config.json").unlink()
    if stored is not None:
        (folder / "generation_config.json").write_text(stored, encoding="utf-8")
    assert settings_of(folder).sampling == sampling


@pytest.mark.parametrize("found", ["-0.5", '"much"', "true", "[]", "NaN", "-Infinity", "1e999"])
@pytest.mark.parametrize("name", list(RANGES))
def test_sampling_out_of_range_is_named(folder: Path, name: str, found: str) -> None:
    file = folder / "generation_config.json"
    file.write_text(f'{{"{name}": {found}}}', encoding="utf-8")
    with pytest.raises(CheckpointError) as refusal:
        settings_of(folder)
    if found in ("NaN", "-Infinity", "1e999"):  # no number of JSON, whatever the key
        assert str(refusal.value).startswith(f"{file} holds ") and found in str(refusal.value)
    else:
        assert str(refusal.value).startswith(f"{file}: ") and name in str(refusal.value)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("generation_config.json", "[]", "holds a list, expected an object"),
        ("generation_config.json", "{", "is not valid JSON"),
        (
            "generation_config.json",
            '{"top_p": "most"}',
            "top_p must be a number above 0, at most 1 and is 'most'",
        ),
        ("config.json", "nonsense", "is not valid JSON"),
    ],
)
def test_damaged_files_are_named(folder: Path, file: str, content: str, sentence: str) -> None:
    (folder / file).write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=sentence) as refusal:
        settings_of(folder)
    assert str(folder / file) in str(refusal.value)


def test_other_models_are_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    with pytest.raises(ConfigError):
        settings_of(folder)


def test_the_table_of_the_files_can_be_overridden(folder: Path) -> None:
    assert settings_of(folder).levels == ("none", "high", "max")
    assert settings_of(folder, "2026-07-31").levels == ("none", "low", "high", "max")


def test_the_default_level_thinks_without_a_prefix() -> None:
    assert thinking_at(None, "2026-04") == Thinking("thinking", "high")
    assert thinking_at(None, "2026-07-31") == Thinking("thinking", "low")
    assert [thinking_at(None, table).level for table in ("2026-04", "2026-07-31")] == [
        "high",
        "low",
    ]
    assert thinking_at("none", "2026-04") == Thinking("chat")
    assert thinking_at("none", "2026-04").level == "none"


def test_max_needs_its_context() -> None:
    with pytest.raises(UsageError, match="at least 393,216 tokens and this checkpoint has 393,215"):
        ChatSettings("2026-04", 393_215).thinking("max")
    assert ChatSettings("2026-04", 393_216).thinking("max") == Thinking("thinking", "max")
