"""Small tokenizers in the official format, for tiny checkpoints and for the embedded model.

A byte-level BPE with the pre-tokenizer of DeepSeek-V3/V4, trained on a given corpus. BOS, EOS and
pad have the official ids 0, 1, 2; the other control tokens follow. The same corpus and size give
the same bytes.
"""

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from dsv4_mlx.chat.tokens import BOS, EOS, PAD, V4_TOKENS
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.documents import parse_object

_BYTES = 256
_SPLITS = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)

SMALL_CORPUS = (
    "The quick brown fox jumps over the lazy dog. How are you today? I am well, thank you.",
    "What is the capital of France? The capital of France is Paris, and the river is the Seine.",
    "def main(argument):\n    return argument + 1\n\nprint(main(41))  # the answer\n",
    'name="city" string="true">parameter invoke tool_calls tool_result {"type": "object"}',
    "Numbers such as 1, 22, 333 and 1984 stand beside words; 你好，世界。 ¿Qué tal? Größe, naïve.",
)
"""Enough text for a vocabulary of a few hundred; a tiny model needs no more."""


def write_tokenizer(
    folder: str | Path,
    corpus: Iterable[str] = SMALL_CORPUS,
    vocab_size: int = 512,
    *,
    control_tokens: Sequence[str] = V4_TOKENS,
) -> None:
    """Write tokenizer.json, tokenizer_config.json and generation_config.json into `folder`.

    The vocabulary has exactly `vocab_size` entries: where the corpus gives fewer merges, place
    holders fill the rest, so that every id a model can sample has a text. `control_tokens` can be
    shortened to try out tokenizers that lack some. UsageError if `vocab_size` cannot hold the
    control tokens and the 256 bytes.
    """
    minimum = len(control_tokens) + _BYTES
    if vocab_size < minimum:
        raise UsageError(
            f"The vocabulary needs at least {minimum} entries for {len(control_tokens)} control "
            f"tokens and {_BYTES} bytes, got {vocab_size}; ask for a larger vocab_size."
        )
    tokenizer = _train(tuple(corpus), vocab_size, tuple(control_tokens))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stored = parse_object(tokenizer.to_str())
    for added in stored["added_tokens"]:  # the trainer marks every control token special
        added["special"] = added["content"] in (BOS, EOS, PAD)
    _write_json(folder / "tokenizer.json", stored)
    _write_json(folder / "tokenizer_config.json", _tokenizer_config())
    _write_json(folder / "generation_config.json", _generation_config(tokenizer))


@functools.lru_cache(maxsize=4)  # a test run writes the same few tokenizers hundreds of times
def _train(corpus: tuple[str, ...], vocab_size: int, control_tokens: tuple[str, ...]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(split), "isolated") for split in _SPLITS),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_added(token) for token in control_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    missing = vocab_size - tokenizer.get_vocab_size()
    tokenizer.add_tokens([_added(f"<｜place▁holder▁no▁{i}｜>") for i in range(missing)])
    return tokenizer


def _added(token: str) -> AddedToken:
    """As in the release, only BOS, EOS and pad are marked special; the rest are merely added."""
    return AddedToken(token, normalized=False, special=token in (BOS, EOS, PAD))


def _tokenizer_config() -> dict[str, object]:
    return {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": BOS,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "model_max_length": 1048576,
        "pad_token": EOS,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def _generation_config(tokenizer: Tokenizer) -> dict[str, object]:
    return {
        "bos_token_id": tokenizer.token_to_id(BOS),
        "do_sample": True,
        "eos_token_id": tokenizer.token_to_id(EOS),
        "temperature": 1.0,
        "top_p": 1.0,
    }


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
