"""Engram's facts: published multipliers, primes and rows, the token map, the key of a config."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsv4_mlx.errors import CheckpointError, ConfigError
from dsv4_mlx.release.config import FLASH
from dsv4_mlx.release.engram import EngramConfig, default_layers
from dsv4_mlx.release.engram_hash import NO_TOKEN, multipliers, row_numbers
from dsv4_mlx.release.spellings import config_of, keys_of
from dsv4_mlx.release.token_map import TOKEN_MAP_FILE, compressed, map_of_tokenizer, read_token_map
from dsv4_mlx.testing.tokenizers import write_tokenizer

V41 = EngramConfig((1, 14), compressed_vocab_size=99092, vocab_size=16_000_000)
"""The tables of V4.1-Flash."""
SMALL = EngramConfig((1,), 300, 1000, max_ngram_size=3, n_heads=2, head_dim=32)

MULTIPLIERS = {
    1: (76632096046245, 4839876093313, 35959672319349, 73987337458391),
    14: (67716810739261, 51510806800915, 30921347202721, 82619226485591),
}
# Primes, less 16,000,000, by order.
PRIMES = {
    1: "57 79 81 97 121 129 133 183  189 207 211 253 277 289 307 321  "
    "339 381 393 399 403 409 447 463",
    14: "477 487 499 507 511 573 609 627  667 669 693 697 711 729 759 769  "
    "781 799 813 819 841 877 879 889",
}
QUICK_BROWN_FOX = [237, 4015, 9933, 18307]  # "The quick brown fox", compressed
# By layer and token.
ROWS = {
    (1, 0): "5184683 27616858 44205083 48930683 72087340 90491157 107696542 122953892 136968925 "
    "158352751 173777793 191876553 204617348 219018676 224658863 246855728 268680887 275960878 "
    "289515523 304300680 324827216 339620865 358763618 376990358",
    (1, 3): "3548953 26746392 33486740 57016354 65667189 80645972 96403260 116433114 142773829 "
    "146939961 173196399 186576533 197596287 221273389 227497140 254140962 268216897 275597844 "
    "296976119 316210301 329234885 349074455 355156691 383971685",
    (14, 0): "13339213 20675680 42296486 51386953 79935979 90690191 107996150 124710742 133090590 "
    "146292057 160743024 187159630 199630184 222557561 228859268 246985836 270554257 284461199 "
    "297084136 307073277 322404972 350535572 359214730 370616412",
    (14, 3): "7066053 21639727 34375865 54532367 64910242 83304513 101554919 116747382 134684653 "
    "159654242 175418612 178789319 200259596 213400461 234191580 243776623 258713936 272871846 "
    "293998006 306142277 328132331 341746444 358124153 376813552",
}


def rows(layer: int, ids: list[int]) -> np.ndarray:
    """Rows [S, 24] of V4.1's layer for compressed ids from the beginning of a text."""
    return row_numbers(V41, layer, np.array([NO_TOKEN] * 3 + ids), 2)


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split()]


@pytest.mark.parametrize("layer", V41.layer_ids)
def test_multipliers_and_primes_are_the_published_ones(layer: int) -> None:
    assert multipliers(V41, layer) == MULTIPLIERS[layer]
    assert V41.primes(layer) == tuple(16_000_000 + n for n in numbers(PRIMES[layer]))


def test_the_tables_have_as_many_rows_as_the_release_says() -> None:
    assert V41.num_embeddings == (384006168, 384016682)
    assert (V41.rows_per_token, V41.width, V41.kept_tokens) == (24, 6144, 3)


@pytest.mark.parametrize(("layer", "token"), ROWS)
def test_rows_of_a_text(layer: int, token: int) -> None:
    assert rows(layer, QUICK_BROWN_FOX)[token].tolist() == numbers(ROWS[layer, token])


def test_other_words_before_change_the_longer_orders_alone() -> None:
    fox, other = rows(1, QUICK_BROWN_FOX)[3], rows(1, [237, 335, 994, 9933, 18307])[4]
    assert other[:8].tolist() == fox[:8].tolist()
    assert (other[8], other[16]) == (143277364, 269436144)


def test_rows_of_control_tokens() -> None:
    found = rows(1, [0, 98611, 98615, 237, 5095])
    assert found[0, :8].tolist() == numbers(
        "5702652 24393184 39183301 61503783 78984481 90144770 103724983 121476532"
    )
    assert found[4, :8].tolist() == numbers(
        "9883351 23228694 40515402 51248914 68817478 91065339 110262754 122358063"
    )


def test_what_is_no_text_ends_every_n_gram_that_reaches_it() -> None:
    found = rows(1, [237, 4015, NO_TOKEN, 9933, 18307])
    assert found[2, :3].tolist() == [4299726, 29253038, 43157972]
    assert np.array_equal(found[3:], rows(1, [9933, 18307]))


def test_a_chunk_has_the_rows_of_the_whole() -> None:
    ids = np.random.default_rng(0).integers(0, 99092, 40)
    whole = row_numbers(V41, 14, ids, 2)
    parts = [row_numbers(V41, 14, ids[a : b + 3], 2) for a, b in ((0, 1), (1, 20), (20, 37))]
    assert np.array_equal(np.concatenate(parts), whole)


def test_rows_lie_in_their_own_tables() -> None:
    ids = np.random.default_rng(1).integers(0, 300, (5, 60))
    found = row_numbers(SMALL, 1, ids, 2)
    ends = np.cumsum(SMALL.primes(1))
    assert found.shape == (5, 58, 4)
    assert np.all(found < ends) and np.all(found >= ends - SMALL.primes(1))


def test_where_engram_stands_unless_a_config_says_so() -> None:
    found = {layers: default_layers(layers) for layers in (40, 43, 6, 5, 4, 1)}
    assert found == {40: (1, 14), 43: (1, 15), 6: (1, 2), 5: (1, 2), 4: (1,), 1: (0,)}


def test_texts_that_spell_one_word_share_a_number() -> None:
    texts = [
        "The",
        " the",
        "thé",
        "THE\n",
        " ",
        "\t ",
        "",
        "",
        "a\ufffd",
        "b",
        "\N{KELVIN SIGN}",
        "k",
    ]
    found = compressed(texts, [f"token {n}" for n in range(len(texts))])
    # An empty text stays empty, one that is no text counts by its token, and a Kelvin is a k.
    assert found.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 5]


def test_the_map_of_a_tokenizer(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, ["the The THE thé cat Cat"] * 50, vocab_size=400)
    found = map_of_tokenizer(tmp_path / "tokenizer.json", 410)
    assert found[:2].tolist() == [0, 1] and found.max() < 409
    # Every id beyond the vocabulary stands for itself.
    assert np.array_equal(np.diff(found[400:]), np.ones(9, int))
    engram = EngramConfig((1,), int(found.max()) + 1, 1000, head_dim=32)
    assert np.array_equal(read_token_map(tmp_path, engram, 410), found)
    (tmp_path / TOKEN_MAP_FILE).write_text(json.dumps(found[::-1].tolist()))
    assert np.array_equal(read_token_map(tmp_path, engram, 410), found[::-1])
    with pytest.raises(CheckpointError, match="compressed token ids up to"):
        read_token_map(tmp_path, EngramConfig((1,), 17, 1000, head_dim=32), 410)


@pytest.mark.parametrize("content", ["[1, 2", "[0, 1]", "[0, 1, true]", "[0, 1, 3]", "{}"])
def test_a_damaged_map_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / TOKEN_MAP_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=TOKEN_MAP_FILE):
        read_token_map(tmp_path, EngramConfig((1,), 3, 1000, head_dim=32), 3)


def test_a_map_that_joins_nothing_needs_no_file(tmp_path: Path) -> None:
    engram = EngramConfig((1,), 400, 1000, head_dim=32)
    assert read_token_map(tmp_path, engram, 400).tolist() == list(range(400))


def test_the_key_of_a_config() -> None:
    config = FLASH.replace(engram=V41)
    assert config_of(keys_of(config)) == config
    assert keys_of(config)["engram"] == {
        "layer_ids": [1, 14],
        "compressed_vocab_size": 99092,
        "vocab_size": 16_000_000,
        "max_ngram_size": 4,
        "n_heads": 8,
        "head_dim": 256,
        "pad_token_id": 2,
        "num_embeddings": [384006168, 384016682],
    }
    assert "engram" not in keys_of(FLASH)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"conv_kernel": 4}, "the key 'conv_kernel' is unknown"),
    "missing": ({"vocab_size": None}, "vocab_size is missing"),
    "other-primes": ({"num_embeddings": [1, 2]}, "hashed in another way"),
    "no-layer": ({"layer_ids": []}, "at least one layer"),
    "beyond": ({"layer_ids": [1, 43], "num_embeddings": None}, "ends at layer 43, with 43"),
    "descending": ({"layer_ids": [14, 1]}, "ascending"),
    "ragged": ({"head_dim": 40}, "multiple of 32"),
    "too-many": ({"n_heads": 200}, "fewer than"),
    "words": ({"compressed_vocab_size": 129281}, "larger than the vocabulary"),
    "pad": ({"pad_token_id": 129280}, "outside the vocabulary"),
    "no-object": ({}, "expected an object"),
}


@pytest.mark.parametrize(("changes", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_tables_is_refused(changes: dict[str, Any], sentence: str) -> None:
    keys = keys_of(FLASH.replace(engram=V41))
    keys["engram"] = keys["engram"] | changes if changes else "yes"
    if changes and "num_embeddings" not in changes:
        keys["engram"]["num_embeddings"] = None
    with pytest.raises(ConfigError, match=sentence):
        config_of(keys)


def test_a_shorter_model_keeps_its_first_tables() -> None:
    shorter = V41.within(14)
    assert shorter is not None and shorter.layer_ids == (1,)
    assert shorter.primes(1) == V41.primes(1)
    assert V41.within(1) is None
