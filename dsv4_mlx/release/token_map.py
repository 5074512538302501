"""Engram's token map: from a token id to the id of the word it spells, whatever its case or spaces.

The rule is the paper's (arXiv:2601.07372): two tokens count as one where their texts are equal
after normalisation, and what is left is numbered in the order of first appearance. A folder may
carry the map as `engram_token_map.json`, a list with a number for each token id; otherwise it is
made from the folder's tokenizer.json.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.documents import DocumentError, parse_json
from dsv4_mlx.release.engram import EngramConfig

TOKEN_MAP_FILE = "engram_token_map.json"
TokenMap = npt.NDArray[np.int32]

_LONE_SPACE = "\ue000"
_NO_TEXT = "\N{REPLACEMENT CHARACTER}"


def compressed(texts: Sequence[str], tokens: Sequence[str]) -> TokenMap:
    """The map of a vocabulary: what every id decodes to by itself, and how its token is spelt."""
    from tokenizers import Regex, normalizers

    steps = [
        normalizers.NFKC(),
        normalizers.NFD(),
        normalizers.StripAccents(),
        normalizers.Lowercase(),
        normalizers.Replace(Regex(r"[ \t\r\n]+"), " "),
        normalizers.Replace(Regex(r"^ $"), _LONE_SPACE),
        normalizers.Strip(),
        normalizers.Replace(_LONE_SPACE, " "),
    ]
    normal = normalizers.Sequence(steps)
    numbers: dict[str, int] = {}
    found = []
    for text, token in zip(texts, tokens, strict=True):
        key = token if _NO_TEXT in text else normal.normalize_str(text) or text
        found.append(numbers.setdefault(key, len(numbers)))
    return np.array(found, np.int32)


def map_of_tokenizer(path: Path, vocab_size: int) -> TokenMap:
    """The map of a tokenizer.json; ids above its vocabulary, which no text has, are one by one."""
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(
            f"{path} is no tokenizer that Engram's token map can be made of ({error}); use the "
            "release's."
        ) from error
    tokens = [tokenizer.id_to_token(number) for number in range(vocab_size)]
    # An id without a token keeps a name of its own, as one does whose bytes are no text.
    names = [f"{_NO_TEXT}{n}" if token is None else token for n, token in enumerate(tokens)]
    texts = [
        names[n] if token is None else tokenizer.decode([n], skip_special_tokens=False)
        for n, token in enumerate(tokens)
    ]
    return compressed(texts, names)


def read_token_map(folder: Path, engram: EngramConfig, vocab_size: int) -> TokenMap:
    """The map that belongs to a folder's weights, [vocab_size]; CheckpointError where none fits.

    Every multiplier depends on how many ids it has, so another number is refused.
    """
    path = folder / TOKEN_MAP_FILE
    if path.is_file():
        found = _numbers(path, vocab_size)
    elif engram.compressed_vocab_size == vocab_size:
        return np.arange(vocab_size, dtype=np.int32)
    else:
        path = folder / "tokenizer.json"
        found = map_of_tokenizer(path, vocab_size)
    count = len(np.unique(found))
    if count != engram.compressed_vocab_size or found.max() != count - 1:
        raise CheckpointError(
            f"{path} gives {count} compressed token ids up to {found.max()}, expected "
            f"{engram.compressed_vocab_size} without gaps, as config.json says; use the files of "
            "one checkpoint."
        )
    return found


def _numbers(path: Path, vocab_size: int) -> TokenMap:
    try:
        numbers = parse_json(path.read_text(encoding="utf-8"))
    except (DocumentError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); download it again.") from error
    fits = isinstance(numbers, list) and len(numbers) == vocab_size
    if not fits or not all(type(one) is int and 0 <= one < vocab_size for one in numbers):
        raise CheckpointError(
            f"{path} is expected to list a number below {vocab_size} for each of as many token "
            "ids; download it again."
        )
    return np.array(numbers, np.int32)
