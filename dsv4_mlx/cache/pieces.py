"""Cache files that go on from another one: a timeline that grows by little is written by little.

Such a file has version 6 and two more facts in its header: `parent`, the name of a file in the same
folder, and `since`, a number of tokens. What grows, tokens, entries and index keys, is in it from
there on; the beginning is the parent's, which may go on from another one itself. Rings, places and
logits are as in a whole file. An entry hangs on the tokens of its closed window alone, so the first
`since // ratio` entries of the parent are those of every timeline that begins with these tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mlx.core as mx

from dsv4_mlx.errors import CacheError, CheckpointError
from dsv4_mlx.files.safetensors_files import read_whole_header
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.layer_roles import LayerRole

VERSION: Final = "6"
_GROWING: Final = ("entries", "keys")
_Arrays = dict[str, mx.array]
_ReadFile = Callable[[Path], tuple[_Arrays, dict[str, Any]]]


@dataclass(frozen=True)
class CacheOutline:
    """What a cache file says it holds; nothing of it is checked."""

    fingerprint: str
    tokens: list[int]
    """From `since` on."""
    places: list[int]
    """Offsets to which the timeline can return, without its end."""
    parent: str = ""
    since: int = 0


def outline(path: str | Path) -> CacheOutline:
    """What the file at `path` holds, for whoever looks for it; CacheError for no cache file."""
    path = Path(path)
    try:
        tensors, header = read_whole_header(path)
        tokens = tensors["tokens"].read().tolist()
        places = tensors["places"].read().tolist() if "places" in tensors else []
        since = int(header.get("since", "0"))
        parent = header.get("parent", "")
        return CacheOutline(header["fingerprint"], tokens, places, parent, since)
    except (CheckpointError, KeyError, OSError, ValueError) as error:
        raise CacheError(f"expected a cache file at {path} but found none ({error}).") from error


def header(parent: str, since: int) -> dict[str, str]:
    """What the header of a file has that goes on from `parent`; nothing without one."""
    if not parent:
        return {}
    return {"version": VERSION, "parent": parent, "since": str(since)}


def grown_since(arrays: Mapping[str, mx.array], role: LayerRole, since: int) -> _Arrays:
    """The arrays of one layer's timeline, of what grows only the rows after `since` tokens."""
    found = dict(arrays)
    for name in _GROWING:
        if since and name in found:
            rows = found.pop(name)[:, since // role.ratio :]
            found |= {name: rows} if rows.shape[1] else {}
    return found


def join(
    path: Path,
    arrays: _Arrays,
    header: Mapping[str, Any],
    config: DeepseekV4Config,
    read: _ReadFile,
) -> None:
    """Put the beginnings of tokens, entries and keys before those in `arrays`, from the parents.

    CacheError where a parent is not there, is damaged or has less.
    """
    if not header.get("parent"):
        return
    chain = _chain(path, arrays, header, read)
    for name in ("tokens", *_growing_names(config)):
        ratio = 1 if name == "tokens" else config.layer_roles[int(name.partition(".")[0])].ratio
        rows: mx.array | None = None
        for place, (piece, since) in enumerate(chain):
            rows = _followed(rows, piece.get(name), since // ratio, name)
            if place + 1 < len(chain) and name in piece:
                del piece[name]
        if rows is not None and rows.size:
            arrays[name] = rows
    mx.eval(list(arrays.values()))


def _chain(
    path: Path, arrays: _Arrays, header: Mapping[str, Any], read: _ReadFile
) -> list[tuple[_Arrays, int]]:
    """The arrays of a file and of those before it, the first one first, and where each begins."""
    chain, seen = [(arrays, _since(path, header))], {path.name}
    while parent := header.get("parent"):
        if parent in seen or Path(parent).name != parent:
            raise CacheError(f"expected {path} to go on from another file; delete it.")
        seen.add(parent)
        path = path.with_name(parent)
        piece, header = read(path)
        chain.append((piece, _since(path, header)))
    return chain[::-1]


def _since(path: Path, header: Mapping[str, Any]) -> int:
    text = str(header.get("since", "0"))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise CacheError(f"expected a number of tokens as since of {path}; delete the file.")
    return int(text) if header.get("parent") else 0


def _growing_names(config: DeepseekV4Config) -> list[str]:
    layers = [n for n, role in enumerate(config.layer_roles) if role.owns_entries]
    return [f"{layer}.{name}" for layer in layers for name in _GROWING]


def _followed(
    rows: mx.array | None, own: mx.array | None, count: int, name: str
) -> mx.array | None:
    """The first `count` of `rows` and then `own`; tokens are [n], entries and keys [1, n, ...]."""
    axis = 0 if name == "tokens" else 1
    held = 0 if rows is None else rows.shape[axis]
    if name.endswith(".keys") and rows is None and own is None:
        return None  # a layer without an indexer
    if held < count:
        raise CacheError(
            f"expected {count} rows of {name} in the file that this one goes on from but found "
            f"{held}; delete both."
        )
    if rows is None or not count:
        return own
    head = rows[:count] if axis == 0 else rows[:, :count]
    return head if own is None else mx.concatenate([head, own], axis=axis)
