"""Text to token ids and back, with the checkpoint's own tokenizer.json.

Control ids come from the control segments of a `Prompt` alone. All other text goes through a copy
of the tokenizer without added tokens, so `<｜User｜>` in a file or a question is ordinary text.
Decoding works on bytes, so a character split over tokens appears when its last byte does.

Any threads may encode and decode at once, and others go on while a long text is encoded.
"""

import codecs
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from dsv4_mlx.chat.encoding import Prompt, Segment
from dsv4_mlx.chat.tokens import BOS, EOS, REQUIRED
from dsv4_mlx.errors import CheckpointError, PromptError
from dsv4_mlx.files.documents import read_object

# A batch of one has nothing to share among threads of the library's own, of which it would warn in
# every program that is started afterwards.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_NO_TEXT = "\N{REPLACEMENT CHARACTER}".encode()


class Tokenizer:
    """The tokenizer of a checkpoint folder.

    `control_ids` maps the text of every added token to its id; no other text gives these ids.
    CheckpointError if the folder has no readable byte-level tokenizer.json, or if it lacks a token
    that every prompt needs.
    """

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder) / "tokenizer.json"
        content = _read(path)
        added = _added_tokens(content, path)
        self._added: dict[str, int] = {token["content"]: token["id"] for token in added}
        self._added_bytes: dict[int, bytes] = {
            index: text.encode() for text, index in self._added.items()
        }
        self._special_ids = {token["id"] for token in added if token.get("special")}
        self._text = _plain_tokenizer(content, path)
        self.control_ids = self._controls(path)

    def _controls(self, path: Path) -> dict[str, int]:
        """The added tokens that ordinary text cannot produce."""
        controls = {
            text: index for text, index in self._added.items() if not self._is_text(text, index)
        }
        missing = [token for token in REQUIRED if token not in controls]
        if missing:
            raise CheckpointError(
                f"{path}: a chat needs the control token {missing[0]}, which is not among the "
                "added tokens; use the tokenizer of a DeepSeek-V4 release."
            )
        return controls

    def _is_text(self, text: str, index: int) -> bool:
        in_vocabulary = self._text.id_to_token(index) is not None
        return in_vocabulary and index in self._text_ids(text)

    @property
    def bos_id(self) -> int:
        return self.control_ids[BOS]

    @property
    def eos_id(self) -> int:
        return self.control_ids[EOS]

    @cached_property
    def vocab_size(self) -> int:
        """One more than the highest id that has a text; a model may have more rows."""
        highest: int = max(self._text.get_vocab().values(), default=-1)
        return max(highest, *self._added.values()) + 1

    def encode(self, prompt: str | Prompt) -> list[int]:
        """Token ids; a string is text throughout, whatever it spells.

        A control segment whose token this tokenizer lacks is text too. PromptError for text that
        is not Unicode (lone surrogates).
        """
        segments = [Segment(prompt, False)] if isinstance(prompt, str) else prompt.segments
        ids: list[int] = []
        for segment in self._known(segments):
            if segment.is_control:
                ids.append(self.control_ids[segment.text])
            else:
                ids += self._text_ids(segment.text)
        return ids

    def _known(self, segments: Iterable[Segment]) -> Iterator[Segment]:
        """The segments with unknown control tokens joined to the text around them."""
        text = ""
        for segment in segments:
            if not segment.is_control or segment.text not in self.control_ids:
                text += segment.text
                continue
            yield Segment(text, False)
            yield segment
            text = ""
        yield Segment(text, False)

    def _text_ids(self, text: str) -> list[int]:
        try:
            # Of the library's calls only those for a batch let go of Python's lock meanwhile.
            (found,) = self._text.encode_batch_fast([text], add_special_tokens=False)
        except TypeError as error:  # how the library answers half of a surrogate pair
            raise PromptError(
                "The text holds half a surrogate pair, which is no character; save it as UTF-8 "
                "and try again."
            ) from error
        ids: list[int] = found.ids
        return ids

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of `ids`. Bytes that are no UTF-8 and ids without a text become U+FFFD.

        `skip_special` leaves out what the tokenizer marks as special: BOS, EOS and padding.
        """
        kept = (index for index in ids if not (skip_special and index in self._special_ids))
        return b"".join(map(self.token_bytes, kept)).decode("utf-8", "replace")

    def token_bytes(self, index: int) -> bytes:
        """The bytes one token stands for; several tokens together may be one character."""
        added = self._added_bytes.get(index)
        if added is not None:
            return added
        token = self._text.id_to_token(index) if 0 <= index < self.vocab_size else None
        return _NO_TEXT if token is None else _letters_to_bytes(token)

    def detokenizer(self) -> "Detokenizer":
        """A new stream of tokens to text."""
        return Detokenizer(self)


class Detokenizer:
    """Tokens of one reply to text, never half a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, index: int) -> str:
        """The text that is complete with this token, often empty inside a character."""
        return self._decoder.decode(self._tokenizer.token_bytes(index))

    def finish(self) -> str:
        """What was left of an unfinished character, as U+FFFD; then the stream starts anew."""
        return self._decoder.decode(b"", final=True)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise CheckpointError(
            f"{path.parent} has no tokenizer.json; download the checkpoint's tokenizer files too."
        )
    content = read_object(path)
    decoder = content.get("decoder")
    if not _is_byte_level(decoder):
        raise CheckpointError(
            f"{path} is no byte-level tokenizer; use the tokenizer of a DeepSeek-V4 release."
        )
    return content


def _is_byte_level(decoder: object) -> bool:
    """Whether tokens are bytes in letters: alone, or in a sequence beside what only joins them."""
    if not isinstance(decoder, dict):
        return False
    if decoder.get("type") != "Sequence":
        return decoder.get("type") == "ByteLevel"
    parts = decoder.get("decoders")
    others = [one for one in (parts if isinstance(parts, list) else []) if not _is_byte_level(one)]
    joins = all(isinstance(one, dict) and one.get("type") == "Fuse" for one in others)
    return isinstance(parts, list) and joins and len(others) < len(parts)


def _added_tokens(content: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    added = content.get("added_tokens")
    added = [] if added is None else added
    if isinstance(added, list) and all(map(_is_added_token, added)):
        return added
    raise CheckpointError(
        f"{path} is damaged: every added token needs an id and a content; download it again."
    )


def _is_added_token(token: object) -> bool:
    if not isinstance(token, dict):
        return False
    index = token.get("id")
    return type(index) is int and 0 <= index < 2**31 and isinstance(token.get("content"), str)


def _plain_tokenizer(content: Mapping[str, Any], path: Path) -> tokenizers.Tokenizer:
    """The same tokenizer, to which no spelling means a control token.

    `encode_special_tokens` of the library would not do: it leaves out only tokens marked special,
    and `<｜User｜>` and `</think>` are not.
    """
    plain = {**content, "added_tokens": [], "truncation": None, "padding": None}
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(plain))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # nothing narrower is raised, and a panic is no Exception
        raise CheckpointError(f"{path} is damaged: {error}; download it again.") from error


def _byte_letters() -> dict[str, int]:
    """The letters that byte-level vocabularies write bytes with (GPT-2's table), inverted.

    Printable Latin-1 stands for itself; the other bytes take the letters from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTE_OF_LETTER = _byte_letters()


def _letters_to_bytes(token: str) -> bytes:
    """A token that is not written in these letters stands for itself."""
    is_bytes = all(letter in _BYTE_OF_LETTER for letter in token)
    return bytes(_BYTE_OF_LETTER[letter] for letter in token) if is_bytes else token.encode()
