"""Folders as they go around: re-uploads, hub caches, other programs' files, all one model."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.chat.settings import ChatSettings
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.generation import Token
from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.hub_cache import model_folder, snapshot_sentence
from dsv4_mlx.files.safetensors_files import read_header
from dsv4_mlx.files.safetensors_writing import TensorPlan, plan_array
from dsv4_mlx.loading import load, load_model
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.release.config import FLASH
from dsv4_mlx.release.spellings import config_of, keys_of
from dsv4_mlx.testing.checkpoints import (
    TINY,
    dequantized_tensors,
    edit_checkpoint,
    write_tiny_checkpoint,
)
from dsv4_mlx.weights.checkpoint import INDEX_FILE, open_checkpoint, open_folder
from dsv4_mlx.weights.fingerprint import fingerprint
from dsv4_mlx.weights.planning import plan_parameters

SMALL = TINY.replace(
    num_hidden_layers=2,
    compress_ratios=(0, 128, 0),
    num_hash_layers=1,
    n_routed_experts=4,
)
SHARD = "model-00001-of-00001.safetensors"
HARMLESS: dict[str, Any] = {
    "_name_or_path": "someone/DeepSeek-V4-Flash",
    "_commit_hash": None,
    "_attn_implementation_autoset": True,
    "_a_note_of_a_program": {"deep": [1]},
    "attn_implementation": "eager",
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV4Config"},
    "aux_loss_alpha": 0.001,
    "bad_words_ids": None,
    "base_model": "deepseek-ai/DeepSeek-V4-Flash",
    "do_sample": True,
    "dtype": "bfloat16",
    "ep_size": 1,
    "first_k_dense_replace": 0,
    "language_model_only": True,
    "length_penalty": 1.0,
    "max_length": 20,
    "mlp_bias": None,
    "moe_layer_freq": 1,
    "n_group": 1,
    "num_key_value_heads": None,
    "pad_token_id": 2,
    "pretraining_tp": 1,
    "pruned_heads": {},
    "quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    "rope_parameters": None,
    "seq_aux": True,
    "temperature": 0.6,
    "tokenizer_class": "PreTrainedTokenizerFast",
    "topk_group": 1,
    "torch_dtype": "bfloat16",
    "torchscript": False,
    "transformers.js_config": {"dtype": "q4"},
    "transformers_version": "5.23.0",
    "unsloth_fixed": True,
    "use_cache": False,
    "vision_n_layers": 0,
}
SCHEME = {"quant_method": "fp8", "weight_block_size": [128, 128]}
SCHEMES: dict[str, Any] = {
    "absent": None,
    "short": SCHEME,
    "with nulls": {**SCHEME, "fmt": None, "scale_fmt": None, "activation_scheme": None},
    "of transformers": {**SCHEME, "dequantize": False, "modules_to_not_convert": ["lm_head"]},
    "of vLLM": {**SCHEME, "ignored_layers": ["head"], "_note": 1},
}


@pytest.mark.parametrize("key", HARMLESS)
def test_notes_of_other_programs_change_nothing(key: str) -> None:
    assert config_of({**keys_of(FLASH), key: HARMLESS[key]}) == FLASH


@pytest.mark.parametrize("name", SCHEMES)
def test_the_releases_packing_is_known_in_every_spelling(name: str) -> None:
    keys = {**keys_of(FLASH), "quantization_config": SCHEMES[name]}
    assert config_of(keys) == FLASH


def test_mlx_lm_may_say_the_packing_twice() -> None:
    packing = {"group_size": 32, "bits": 4, "mode": "mxfp4", "lm_head": {"bits": 8}}
    keys = {**keys_of(FLASH), "quantization": packing, "quantization_config": packing}
    assert config_of(keys) == FLASH


def test_all_listed_tokens_end_a_reply() -> None:
    config = config_of({**keys_of(FLASH), "eos_token_id": [1, 128804, 1]})
    assert (config.eos_token_id, config.stop_token_ids) == (1, (1, 128804))
    assert keys_of(config)["eos_token_id"] == [1, 128804]
    assert config_of(keys_of(config)) == config
    assert FLASH.stop_token_ids == (1,) and keys_of(FLASH)["eos_token_id"] == 1


# Folders


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("plain"), SMALL)


def logits(folder: Path) -> np.ndarray:
    model = load_model(
        open_checkpoint(folder), dtype=mx.float32, numerics=Numerics.PLAIN, backend="cpu"
    )
    return np.array(model(mx.array([list(range(3, 35))])))


@pytest.fixture(scope="module")
def expected(plain: Path) -> np.ndarray:
    return logits(plain)


def bfloat16(values: np.ndarray) -> np.ndarray:
    """The bits of values that bfloat16 holds exactly."""
    bits = values.astype(np.float32).view(np.uint32)
    assert not (bits & 0xFFFF).any()
    return (bits >> 16).astype(np.uint16)


def multiplied_out(folder: Path, chosen: Callable[[str], bool]) -> dict[str, TensorPlan | None]:
    """Packed matrices as bfloat16, without their scales."""
    values = dequantized_tensors(folder)
    changes: dict[str, TensorPlan | None] = {}
    for name in read_header(folder / SHARD):
        stem = name.removesuffix(".scale")
        if stem != name and chosen(stem):
            changes[name] = None
            weight = f"{stem}.weight"
            changes[weight] = plan_array(weight, "BF16", bfloat16(values[weight]))
    return changes


def float32_vectors(folder: Path, chosen: Callable[[str], bool]) -> dict[str, TensorPlan | None]:
    """Norms as float32."""
    values = dequantized_tensors(folder)
    return {
        name: plan_array(name, "F32", values[name].astype(np.float32))
        for name, entry in read_header(folder / SHARD).items()
        if entry.dtype == "BF16" and len(entry.shape) == 1 and chosen(name)
    }


def json_changed(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def with_dots(content: dict[str, Any]) -> None:
    content["weight_map"] = {name: f"./{file}" for name, file in content["weight_map"].items()}


def in_sequence(content: dict[str, Any]) -> None:
    content["decoder"] = {"type": "Sequence", "decoders": [content["decoder"], {"type": "Fuse"}]}


def as_windows_writes(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())


def test_the_index_is_there(plain: Path) -> None:
    assert (plain / INDEX_FILE).is_file() and (plain / SHARD).is_file()


@settings(max_examples=20, deadline=None)
@given(
    keys=st.lists(st.sampled_from(sorted(HARMLESS)), max_size=4),
    scheme=st.sampled_from(sorted(SCHEMES)),
    norms=st.booleans(),
    dots=st.booleans(),
    sequence=st.booleans(),
    windows=st.booleans(),
    stops=st.sampled_from([None, 1, [1], [1, 7], [1, 7, 9]]),
    unpacked=st.sampled_from(["", "attn", "shared_experts", "experts", "."]),
)
def test_a_wild_folder_is_the_plain_model(
    plain: Path,
    expected: np.ndarray,
    tmp_path_factory: pytest.TempPathFactory,
    keys: list[str],
    scheme: str,
    norms: bool,
    dots: bool,
    sequence: bool,
    windows: bool,
    stops: Any,
    unpacked: str,
) -> None:
    folder = tmp_path_factory.mktemp("wild") / "model"
    shutil.copytree(plain, folder)
    changes = float32_vectors(folder, lambda _: True) if norms else {}
    if unpacked:
        changes |= multiplied_out(folder, lambda name: unpacked in name)
    edit_checkpoint(folder, changes)
    added = {key: HARMLESS[key] for key in keys}
    added["quantization_config"] = SCHEMES[scheme]
    json_changed(folder / "config.json", lambda content: content.update(added))
    json_changed(
        folder / "generation_config.json", lambda content: content.update(eos_token_id=stops)
    )
    if dots:
        json_changed(folder / INDEX_FILE, with_dots)
    if sequence:
        json_changed(folder / "tokenizer.json", in_sequence)
    if windows:
        for file in folder.glob("*.json"):
            as_windows_writes(file)
    found = logits(folder)
    if unpacked:  # the same values, summed by a product of another kind
        assert np.square(found - expected).mean() <= 1e-10 * np.square(expected).mean()
    else:
        assert np.array_equal(found, expected)
    assert set(open_checkpoint(folder).config.stop_token_ids) == {1, *(np.ravel(stops or 1))}
    text = "A wild folder, 12 ünï <｜User｜>"
    assert Tokenizer(folder).encode(text) == Tokenizer(plain).encode(text)
    assert ChatSettings.of(open_folder(folder)) == ChatSettings.of(open_folder(plain))
    shutil.rmtree(folder)


def test_further_end_tokens_leave_kept_caches_valid(plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path / "copy")
    file = tmp_path / "copy" / "generation_config.json"
    json_changed(file, lambda content: content.update(eos_token_id=[1, 7]))
    found = [open_checkpoint(folder) for folder in (plain, tmp_path / "copy")]
    assert found[0].config != found[1].config
    first, second = (fingerprint(one, plan_parameters(one)) for one in found)
    assert first == second


def test_a_reply_ends_at_each_of_them(plain: Path, tmp_path: Path) -> None:
    def reply(folder: Path) -> list[Token]:
        session = Engine(load(folder, dtype=mx.float32, backend="cpu")[0]).session()
        session.sync([0, 5, 6, 7])
        return list(session.stream(12))

    shutil.copytree(plain, tmp_path / "copy")
    whole = reply(plain)
    chosen = whole[3].id
    for file in ("generation_config.json", "config.json"):
        json_changed(
            tmp_path / "copy" / file, lambda content: content.update(eos_token_id=[1, chosen])
        )
        found = reply(tmp_path / "copy")
        place = [token.id for token in whole].index(chosen)
        assert [token.id for token in found] == [token.id for token in whole[: place + 1]]
        assert found[-1].finish == "stop"
        shutil.copy(plain / file, tmp_path / "copy" / file)


@pytest.mark.parametrize("ids", [[1, 512], 600, -1, "1", [None], [[1]], True, 10**300])
def test_an_end_token_that_is_none_is_named(plain: Path, tmp_path: Path, ids: object) -> None:
    shutil.copytree(plain, tmp_path / "copy")
    file = tmp_path / "copy" / "generation_config.json"
    json_changed(file, lambda content: content.update(eos_token_id=ids))
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(tmp_path / "copy")
    assert str(error.value).startswith(f"{file}: eos_token_id is ")


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        {"type": "Metaspace"},
        {"type": "Sequence", "decoders": []},
        {"type": "Sequence", "decoders": [{"type": "Fuse"}]},
        {"type": "Sequence", "decoders": [{"type": "ByteLevel"}, {"type": "Strip"}]},
        {"type": "Sequence", "decoders": "ByteLevel"},
        {"type": "Sequence"},
        ["ByteLevel"],
    ],
)
def test_another_decoder_is_refused(plain: Path, tmp_path: Path, decoder: object) -> None:
    shutil.copytree(plain, tmp_path / "copy")
    file = tmp_path / "copy" / "tokenizer.json"
    json_changed(file, lambda content: content.update(decoder=decoder))
    with pytest.raises(CheckpointError, match="is no byte-level tokenizer"):
        Tokenizer(tmp_path / "copy")


# Hub caches


def cache_of(plain: Path, root: Path, *revisions: str, main: str | None = None) -> Path:
    """A hub's cache of a repository, written in the order of `revisions`."""
    repository = root / "models--someone--DeepSeek-V4-Flash-0731"
    for age, revision in enumerate(revisions):
        snapshot = repository / "snapshots" / revision
        snapshot.mkdir(parents=True)
        for file in plain.iterdir():
            (snapshot / file.name).symlink_to(file)
        os.utime(snapshot, (1_000_000 + age, 1_000_000 + age))
    if main is not None:
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(main)
    return repository


@pytest.mark.parametrize(
    ("revisions", "main", "taken"),
    [
        (["aaa"], None, "aaa"),
        (["aaa"], "aaa", "aaa"),
        (["aaa", "bbb"], "aaa\n", "aaa"),
        (["bbb", "aaa"], None, "aaa"),
        (["aaa", "bbb"], "gone", "bbb"),
    ],
)
def test_of_a_hubs_cache_the_newest_snapshot_is_taken(
    plain: Path, tmp_path: Path, revisions: list[str], main: str | None, taken: str
) -> None:
    repository = cache_of(plain, tmp_path, *revisions, main=main)
    for asked in (repository, repository / "snapshots"):
        folder = model_folder(asked)
        assert folder == repository / "snapshots" / taken
        assert open_checkpoint(asked).folder == folder
        assert ChatSettings.of(open_folder(asked)).effort_table == "2026-07-31"
        assert f"snapshot {taken} of the hub's cache" in (snapshot_sentence(asked, folder) or "")
    model, tokenizer = load(repository, dtype=mx.float32)
    assert model.config == SMALL and tokenizer.eos_id == 1


def test_a_folder_of_ones_own_is_itself(plain: Path, tmp_path: Path) -> None:
    assert model_folder(plain) == plain and snapshot_sentence(plain, plain) is None
    assert model_folder(tmp_path / "absent") == tmp_path / "absent"


def test_a_cache_without_a_finished_snapshot_is_named(tmp_path: Path) -> None:
    (tmp_path / "models--a--b" / "snapshots" / "abc").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="without a finished snapshot"):
        open_checkpoint(tmp_path / "models--a--b")
