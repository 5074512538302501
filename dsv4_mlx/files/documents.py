"""The one reader of JSON and TOML: values that are whole, finite and shallow, or what is wrong.

Files come from strangers, damaged disks and half downloads, so nothing they hold may end in a
traceback, now or where a value is used later. A byte order mark and CRLF are taken; a document is
refused that is too large, nests too deep, names a key twice, or holds a number that no double can
hold, half a surrogate pair, NaN or Infinity. Its values are asked for with `fields.Fields`.
"""

import codecs
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from dsv4_mlx.errors import CheckpointError, Dsv4Error
from dsv4_mlx.files.paths import printable

MOST_DEPTH = 100
"""Lists and tables inside each other; no file of ours or of a release has a tenth of it."""
MOST_BYTES = 64 << 20
"""The index of the largest release has a fifth of it, a tokenizer less."""

Make = Callable[[list[tuple[str, Any]]], Any]
"""What becomes of the pairs of one JSON object, in their order."""

_LFS = b"version https://git-lfs"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Digits made alike, a run that is longer than any double's is found by one search.
_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_NUMBER = b"0" * 309
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_SHOWN = 60


class DocumentError(ValueError):
    """The reason why a text is not read as a document, worded to follow the name of its file."""


def parse_json(content: bytes | str, make: Make | None = None) -> Any:
    """The value that `content` spells; DocumentError says what is wrong with it.

    `make` gives the value of each object, from its pairs, instead of a dict.
    """
    raw = _utf8(content)
    try:
        value = _decoder(raw, make).decode(raw.decode("utf-8"))
    except (ValueError, RecursionError, MemoryError) as error:
        raise DocumentError(_json_problem(raw, error)) from error
    _require_shallow(value)
    if _SURROGATE.search(raw):
        _require_unicode(value)
    return value


def parse_object(content: bytes | str) -> dict[str, Any]:
    """The JSON object that `content` spells; DocumentError for anything else."""
    value = parse_json(content)
    if not isinstance(value, dict):
        raise DocumentError(f"holds {kind_of(value)}, expected an object")
    return value


def parse_toml(content: bytes | str) -> dict[str, Any]:
    """The table that `content` spells; DocumentError says what is wrong with it."""
    import tomllib  # only here: most runs read no TOML

    raw = _utf8(content)
    try:
        table = tomllib.loads(raw.decode("utf-8"), parse_float=_toml_float)
        _require_shallow(table)
        _require_doubles(table)
    except DocumentError:
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        raise DocumentError(f"is not valid TOML ({_reason(error)})") from error
    return table


def read_object(
    path: Path,
    *,
    cure: str = "download it again",
    error: type[Dsv4Error] = CheckpointError,
    most_bytes: int = MOST_BYTES,
) -> dict[str, Any]:
    """The JSON object in the file at `path`.

    Raises `error`, a sentence with the file and the `cure`, when there is none.
    """
    return _read(path, parse_object, cure, error, most_bytes)


def read_toml(
    path: Path,
    *,
    cure: str = "correct it",
    error: type[Dsv4Error] = CheckpointError,
    most_bytes: int = MOST_BYTES,
) -> dict[str, Any]:
    """The TOML table in the file at `path`; errors as `read_object` has them."""
    return _read(path, parse_toml, cure, error, most_bytes)


def content_of(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of an ordinary file; OSError, or DocumentError for one that is no document."""
    if path.exists() and not path.is_file():
        raise DocumentError("is no file")  # a folder, or a pipe that nobody writes to
    with open(path, "rb") as file:
        # What is asked for is allocated at once; a file of the system tells no size.
        size = os.fstat(file.fileno()).st_size or most_bytes
        content = file.read(min(size, most_bytes) + 1)
    if len(content) > most_bytes:
        raise DocumentError(f"has more than the {most_bytes:,} bytes that are read")
    if is_lfs_pointer(content):
        raise DocumentError(LFS_PROBLEM)
    return content


LFS_PROBLEM = "is a Git LFS pointer instead of the file itself"
LFS_CURE = "fetch it with `git lfs pull`"


def is_lfs_pointer(beginning: bytes) -> bool:
    """Whether a file that begins so only says where the real one is."""
    return beginning.startswith(_LFS)


def _read(
    path: Path,
    parse: Callable[[bytes], dict[str, Any]],
    cure: str,
    error: type[Dsv4Error],
    most_bytes: int,
) -> dict[str, Any]:
    try:
        return parse(content_of(path, most_bytes))
    except OSError as problem:
        raise error(
            f"{printable(str(path))} cannot be read ({problem.strerror}); {cure}."
        ) from problem
    except DocumentError as problem:
        cure = LFS_CURE if str(problem) == LFS_PROBLEM else cure
        raise error(f"{printable(str(path))} {problem}; {cure}.") from problem


def kind_of(value: object) -> str:
    """What JSON calls it, with its article."""
    kinds: dict[type, str] = {
        dict: "an object", list: "a list", str: "a text", bool: "a truth value", int: "a number",
        float: "a number", type(None): "null",
    }  # fmt: skip
    return kinds.get(type(value), f"a {type(value).__name__}")


def shown(value: object) -> str:
    """A value in a sentence: cut short, since a stranger's list may have a million entries."""
    if isinstance(value, dict | list | tuple) and len(value) > _SHOWN:
        return f"{kind_of(value)} of {len(value):,} entries"
    text = repr(value[: 2 * _SHOWN]) if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def as_double(value: object) -> float | None:
    """A finite number as a float; None for anything else, truth values included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


# Parsing


def _utf8(content: bytes | str) -> bytes:
    """The bytes of `content` as UTF-8 without a byte order mark."""
    try:
        if isinstance(content, str):
            return content.removeprefix("\ufeff").encode("utf-8")
        if content.startswith(_UTF16):  # as Windows' own tools save text
            return content.decode("utf-16").encode("utf-8")
        content = content.removeprefix(codecs.BOM_UTF8)
        content.decode("utf-8")
    except UnicodeError as error:
        place = f" (byte {error.start})" if isinstance(error, UnicodeDecodeError) else ""
        raise DocumentError(f"is no UTF-8 text{place}") from error
    return content


def _decoder(raw: bytes, make: Make | None) -> json.JSONDecoder:
    # A function of ours for each whole number takes longer than all the rest of reading.
    long = _LONG_NUMBER in raw.translate(_DIGITS_ALIKE)
    return json.JSONDecoder(
        object_pairs_hook=make or unique,
        parse_int=_whole if long else None,
        parse_float=_finite,
        parse_constant=_no_constant,
    )


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict; DocumentError names a key that stands twice."""
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        again = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise DocumentError(f"has the key {shown(again)} twice")
    return table


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise DocumentError(f"holds the number {_cut(text)}, which is beyond every double")
    return number


def _toml_float(text: str) -> float:
    # TOML has words for these, and who asks for the value says what it should be.
    return float(text) if text.strip("+-") in ("inf", "nan") else _finite(text)


def _whole(text: str) -> int:
    _finite(text)
    return int(text)


def _no_constant(name: str) -> NoReturn:
    raise DocumentError(f"holds {name}, which is no JSON")


def _json_problem(raw: bytes, error: BaseException) -> str:
    if isinstance(error, DocumentError):
        return str(error)
    if not raw.strip():
        return "is empty"
    if raw.lstrip()[:1] == b"<":
        return "is a web page instead of the file itself"
    return f"is not valid JSON ({_reason(error)})"


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return _TOO_DEEP
    return str(error) or "there is not enough memory for it"


_TOO_DEEP = f"it nests deeper than {MOST_DEPTH} levels"


def _require_shallow(value: Any) -> None:
    """Level by level, so that the check itself cannot run out of stack."""
    level = [value] if isinstance(value, dict | list | tuple) else []
    for _ in range(MOST_DEPTH):
        if not level:
            return
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list, tuple))
        ]
    if level:
        raise DocumentError(f"nests deeper than {MOST_DEPTH} levels")


def _require_doubles(table: dict[str, Any]) -> None:
    left: list[Any] = [table]
    while left:
        value = left.pop()
        if isinstance(value, dict | list):
            left += value.values() if isinstance(value, dict) else value
        elif type(value) is int and as_double(value) is None:
            raise DocumentError("holds a number that is beyond every double")


def _require_unicode(value: Any) -> None:
    """Half a surrogate pair has no UTF-8 form, so that it could not even be printed."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DocumentError("holds half a surrogate pair, which is no character") from error


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:20]}... of {len(text):,} digits"
