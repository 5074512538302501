"""Cache files: one timeline as safetensors, refused when it does not fit the model.

Format, version 5. Header: `format`, `version`, `fingerprint`, `layout`, `details` (the caller's
notes as JSON), `checksum`, `parts` (see `parts`: what a reader may pass over, with tensors
`part.*`; version 4 has none). Tensors: `tokens` int32 [n], and per layer l the rings `l.window`
and `l.open`, the entries `l.entries` and the index keys `l.keys`, each absent while it is empty;
layers with Engram, which no released model has, add the last token ids `l.ids` int32.
Entries and keys are stored without spare rows, all rows as `layout` says. `places` int32 [p] are
offsets to which the timeline can return; a place k brings the rings `place.k.l.window` and
`place.k.l.open`, with Engram `place.k.l.ids`, and shares the rest. `session.*` are arrays of the
caller's, such as logits, which versions 2 and 3 did not have. Version 2 had neither places nor a
checksum. Version 6 is a file that goes on from another one, see `pieces`.

The file is data only and is written whole or not at all.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, cast

import mlx.core as mx

from dsv4_mlx.cache import parts as optional_parts
from dsv4_mlx.cache import pieces
from dsv4_mlx.cache import seal as cache_seal
from dsv4_mlx.cache.drafts import DraftState, drafts_of, keep_drafts, new_cache
from dsv4_mlx.cache.forms import check_state
from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.cache.layouts import EntryLayout, layout_named
from dsv4_mlx.cache.snapshots import Snapshot, snapshot_at
from dsv4_mlx.errors import CacheError, CheckpointError
from dsv4_mlx.files.documents import DocumentError, parse_json
from dsv4_mlx.files.file_systems import FileSystem
from dsv4_mlx.files.finishing import Finishing, finish
from dsv4_mlx.files.paths import utf8_spelling
from dsv4_mlx.files.safetensors_files import read_header
from dsv4_mlx.release.config import DeepseekV4Config

FORMAT = "dsv4-mlx cache"
VERSION = "5"
READABLE = ("2", "3", "4", VERSION, pieces.VERSION)
_BESIDE = "session."


class CachedModel(Protocol):
    """What decides whether a file fits: a model, as far as it matters here."""

    config: DeepseekV4Config
    layout: EntryLayout
    earlier_fingerprints: Sequence[str]
    """What files may carry that were written before version 5."""


def save(
    path: str | Path,
    cache: Sequence[LayerCache],
    *,
    fingerprint: str,
    tokens: Sequence[int],
    notes: Mapping[str, str] | None = None,
    places: Sequence[Snapshot] = (),
    beside: Mapping[str, mx.array] | None = None,
    parent: str = "",
    since: int = 0,
) -> None:
    """Write the single timeline `cache` that `tokens` led to, atomically and with mode 0600.

    `places` are snapshots of earlier moments of it; each adds its state of fixed size. `notes` and
    the arrays `beside` are the caller's own. Of what grows only the rows after `since` tokens are
    written where the file `parent` beside it has the others. Raises CacheError or OSError, with an
    older file left as it was, when the disk does not take it.
    """
    _require_single(cache, tokens)
    arrays = {"tokens": mx.array(list(tokens)[since:], mx.int32)}
    for number, layer in enumerate(cache):
        named = pieces.grown_since(layer.rows[0].arrays(), layer.role, since).items()
        arrays |= {f"{number}.{name}": array for name, array in named}
    for place in places:
        arrays |= _fixed_arrays(place)
    if places:
        arrays["places"] = mx.array([place.offset for place in places], mx.int32)
    arrays |= {f"{_BESIDE}{name}": array for name, array in (beside or {}).items()}
    drafts = {place.offset: place.drafts for place in places} | {len(tokens): drafts_of(cache)}
    parts, part_arrays = optional_parts.written(drafts)
    arrays |= part_arrays
    header = {
        "parts": parts,
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": fingerprint,
        "layout": cache[0].layout.name,
        "details": json.dumps(dict(notes or {})),
        "checksum": cache_seal.OPEN,
        **pieces.header(parent, since),
    }
    _write(Path(path), arrays, header)


def _require_single(cache: Sequence[LayerCache], tokens: Sequence[int]) -> None:
    """CacheError unless `cache` is one timeline that `tokens` led to."""
    if any(len(layer.rows) != 1 for layer in cache):
        raise CacheError("expected a cache of one row but found a batch; extract the rows first.")
    if len(tokens) != cache[0].offset:
        raise CacheError(
            f"expected {cache[0].offset} tokens, as the cache holds, but found {len(tokens)}; "
            "save the tokens that were fed."
        )


def _write(path: Path, arrays: dict[str, mx.array], header: dict[str, str]) -> None:
    """Write a whole file in the place of an older one, or raise and leave that; what comes after
    the arrays may be done later, see `files.finishing`."""
    # MLX appends .safetensors to any other ending.
    partial = path.with_name(f".{path.name}.{os.getpid()}.safetensors")
    with ExitStack() as leaving:
        leaving.callback(partial.unlink, missing_ok=True)
        os.close(os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
        try:
            with utf8_spelling(partial.parent) as folder:
                mx.save_safetensors(f"{folder}/{partial.name}", arrays, header)
        except RuntimeError as error:
            # MLX's own word for a full disk.
            raise CacheError(f"{path} could not be written ({error}); free disk space.") from error
        leaving.pop_all()
    finish(_closing(partial, path))


def _closing(partial: Path, path: Path) -> Finishing:
    """Gives a written file its sum and its name, or removes it; no array is needed."""

    def close() -> None:
        files = FileSystem()
        try:
            cache_seal.close(partial)
            with open(partial, "rb") as file:
                files.sync(file.fileno(), partial)
            files.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    return close


def _fixed_arrays(place: Snapshot) -> dict[str, mx.array]:
    """The rings of a snapshot, by the names they have in a file."""
    return {
        f"place.{place.offset}.{number}.{name}": array
        for number, (row,) in enumerate(place.layers)
        for name, array in (("window", row.window), ("open", row.open_rows), ("ids", row.ids))
        if array is not None
    }


def load(
    path: str | Path, *, model: CachedModel, fingerprint: str
) -> tuple[list[LayerCache], list[int], dict[str, str], dict[str, mx.array], list[Snapshot]]:
    """Cache, tokens, notes, arrays beside and places of a file written for this model.

    CacheError when it is damaged or of another model.
    """
    path, fingerprints = Path(path), (fingerprint, *model.earlier_fingerprints)

    def one(path: Path) -> tuple[dict[str, mx.array], dict[str, Any]]:
        found = _read(path)
        _check_header(path, found[1], fingerprints)
        return found

    arrays, header = one(path)
    pieces.join(path, arrays, header, model.config, one)
    notes = _notes(path, header["details"])
    tokens = _tokens(path, arrays, model.config.vocab_size)
    cache = _cache(path, header["layout"], len(tokens), arrays, model)
    drafts = optional_parts.taken(header, arrays)
    places = [
        _place(offset, cache, arrays, model, drafts.get(offset))
        for offset in _offsets(path, arrays, len(tokens))
    ]
    keep_drafts(cache, drafts.get(len(tokens)))
    beside = _taken(_BESIDE, arrays)
    if arrays:
        raise CacheError(f"{path} holds {min(arrays)}, which this model has no place for.")
    return cache, tokens, notes, beside, places


def _cache(
    path: Path, layout_name: str, position: int, arrays: dict[str, mx.array], model: CachedModel
) -> list[LayerCache]:
    """The state at the end of the timeline."""
    layout = layout_named(layout_name)
    if layout != model.layout:
        raise CacheError(
            f"expected entries stored as {model.layout.name} but {path} holds {layout.name}; "
            "load the model with the numerics and kv the file was written with."
        )
    cache = new_cache(model.config, layout)
    for number, layer in enumerate(cache):
        own = _taken(f"{number}.", arrays)
        check_state(model.config, layout, number, position, own)
        layer.rows[0].fill(position, own)
    return cache


def _place(
    offset: int,
    cache: Sequence[LayerCache],
    arrays: dict[str, mx.array],
    model: CachedModel,
    drafts: DraftState | None,
) -> Snapshot:
    """The moment of `cache` after `offset` tokens, with its own rings from the file."""
    rings = [_taken(f"place.{offset}.{number}.", arrays) for number in range(len(cache))]
    found = snapshot_at(cache, offset, rings, drafts)
    for number, (row,) in enumerate(found.layers):
        check_state(model.config, model.layout, number, offset, row.arrays())
    return found


def _offsets(path: Path, arrays: dict[str, mx.array], length: int) -> list[int]:
    """The places' offsets, in their order."""
    stored = arrays.pop("places", mx.array([], mx.int32))
    usable = stored.dtype == mx.int32 and stored.ndim == 1
    offsets = cast("list[int]", stored.tolist()) if usable else [0]
    if sorted(set(offsets)) != offsets or not all(0 < offset <= length for offset in offsets):
        raise CacheError(
            f"expected places within {length} tokens in {path} but found others; delete the file."
        )
    return offsets


def _notes(path: Path, text: str) -> dict[str, str]:
    """The caller's dictionary of texts."""
    try:
        notes = parse_json(text)
    except DocumentError:
        notes = None
    if not isinstance(notes, dict) or not all(isinstance(v, str) for v in notes.values()):
        raise CacheError(f"expected details of text in {path} but found others; delete the file.")
    return notes


def _tokens(path: Path, arrays: dict[str, mx.array], vocab_size: int) -> list[int]:
    tokens = arrays.pop("tokens", None)
    if tokens is None or tokens.dtype != mx.int32 or tokens.ndim != 1:
        raise CacheError(f"expected int32 tokens in {path} but found none; delete the file.")
    ids: list[int] = tokens.tolist()  # type: ignore[assignment]
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        raise CacheError(
            f"expected token ids below {vocab_size} in {path} but found {min(ids)} to {max(ids)}; "
            "delete the file."
        )
    return ids


def _taken(beginning: str, arrays: dict[str, mx.array]) -> dict[str, mx.array]:
    """The arrays whose names begin so, taken out of `arrays`, without that beginning."""
    names = [name for name in arrays if name.startswith(beginning)]
    return {name.removeprefix(beginning): arrays.pop(name) for name in names}


def _read(path: Path) -> tuple[dict[str, mx.array], dict[str, Any]]:
    if not path.is_file():
        raise CacheError(f"expected a cache file at {path} but there is none; check the path.")
    try:
        read_header(path)  # checks every byte range against the file's length
        cache_seal.check(path)
        with utf8_spelling(path) as name:
            loaded = mx.load(name, format="safetensors", return_metadata=True)
            arrays, header = cast("tuple[dict[str, mx.array], dict[str, Any]]", loaded)
            mx.eval(list(arrays.values()))
    except (CheckpointError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).rstrip(".").split("; download")[0]
        raise CacheError(
            f"expected a whole cache file but {path} is damaged ({reason}); "
            "delete it, the tokens will be prefilled again."
        ) from error
    return arrays, header


def _check_header(path: Path, header: dict[str, Any], fingerprints: Sequence[str]) -> None:
    if header.get("format") != FORMAT:
        raise CacheError(f"expected a cache file of this program but found another kind in {path}.")
    if header.get("version") not in READABLE:
        raise CacheError(
            f"expected cache version {VERSION} but {path} has {header.get('version')!r}; "
            "delete it, the tokens will be prefilled again."
        )
    needed = {"layout", "details"} | (set() if header["version"] == "2" else {"checksum"})
    if not needed <= header.keys():
        missing = ", ".join(sorted(needed - header.keys()))
        raise CacheError(f"expected {missing} in the header of {path} but found none; delete it.")
    if header.get("fingerprint") not in fingerprints:
        raise CacheError(
            f"expected a cache of this model but {path} was written for another one; "
            "load that model or delete the file."
        )
