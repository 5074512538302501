"""Cache files: one timeline as safetensors, refused when it does not fit the model.

Format, version 2. Metadata: `format`, `version`, `fingerprint`, `layout`, `details` (the caller's
dictionary as JSON). Tensors: `tokens` int32 [n], and per layer l the rings `l.window` and `l.open`,
the entries `l.entries` and the index keys `l.keys`, each absent while it is empty. Entries and keys
are stored without spare rows, all rows as `layout` says. The file is data only and is written whole
or not at all.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from dsv4_mlx.cache import LayerCache, layout_named
from dsv4_mlx.errors import CacheError, CheckpointError
from dsv4_mlx.safetensors_files import read_header

if TYPE_CHECKING:
    from dsv4_mlx.model import Model

FORMAT = "dsv4-mlx cache"
VERSION = "2"


def save(
    path: str | Path,
    cache: Sequence[LayerCache],
    *,
    fingerprint: str,
    tokens: Sequence[int],
    metadata: dict[str, str] | None = None,
) -> None:
    """Write the single timeline `cache` that `tokens` led to, atomically and with mode 0600."""
    if any(len(layer.rows) != 1 for layer in cache):
        raise CacheError("expected a cache of one row but found a batch; extract the rows first")
    if len(tokens) != cache[0].offset:
        raise CacheError(
            f"expected {cache[0].offset} tokens, as the cache holds, but found {len(tokens)}; "
            "save the tokens that were fed"
        )
    arrays = {"tokens": mx.array(list(tokens), mx.int32)}
    for number, layer in enumerate(cache):
        named = layer.rows[0].arrays().items()
        arrays |= {f"{number}.{name}": array for name, array in named}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": fingerprint,
        "layout": cache[0].layout.name,
        "details": json.dumps(metadata or {}),
    }
    path = Path(path)
    # MLX appends .safetensors to any other ending.
    partial = path.with_name(f".{path.name}.{os.getpid()}.safetensors")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
        mx.save_safetensors(str(partial), arrays, header)
        _sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(
    path: str | Path, *, model: "Model", fingerprint: str
) -> tuple[list[LayerCache], list[int], dict[str, str]]:
    """Cache, tokens and details of a file written for this model; CacheError when it is not."""
    arrays, header = _read(Path(path))
    _check_header(Path(path), header, fingerprint)
    layout, details = layout_named(header["layout"]), json.loads(header["details"])
    tokens = _tokens(Path(path), arrays, model.config.vocab_size)
    cache = model.make_cache()
    for number, layer in enumerate(cache):
        if layer.layout != layout:
            raise CacheError(
                f"expected entries stored as {layer.layout.name} but {path} holds {layout.name}; "
                "load the model with the numerics and kv the file was written with"
            )
        own = _of_layer(number, arrays)
        model.check_state(number, len(tokens), own)
        layer.rows[0].fill(len(tokens), own)
    if arrays:
        raise CacheError(f"{path} holds {min(arrays)}, which this model has no place for")
    return cache, tokens, details


def _tokens(path: Path, arrays: dict[str, mx.array], vocab_size: int) -> list[int]:
    tokens = arrays.pop("tokens", None)
    if tokens is None or tokens.dtype != mx.int32 or tokens.ndim != 1:
        raise CacheError(f"expected int32 tokens in {path} but found none; delete the file")
    ids: list[int] = tokens.tolist()  # type: ignore[assignment]
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        raise CacheError(
            f"expected token ids below {vocab_size} in {path} but found {min(ids)} to {max(ids)}; "
            "delete the file"
        )
    return ids


def _of_layer(number: int, arrays: dict[str, mx.array]) -> dict[str, mx.array]:
    """What `LayerState.arrays` gave of a layer, taken out of `arrays`."""
    names = [name for name in arrays if name.startswith(f"{number}.")]
    return {name.removeprefix(f"{number}."): arrays.pop(name) for name in names}


def _read(path: Path) -> tuple[dict[str, mx.array], dict[str, Any]]:
    if not path.is_file():
        raise CacheError(f"expected a cache file at {path} but there is none; check the path")
    try:
        read_header(path)  # checks every byte range against the file's length
        arrays, header = mx.load(str(path), format="safetensors", return_metadata=True)
        mx.eval(list(arrays.values()))
    except (CheckpointError, RuntimeError, ValueError) as error:
        reason = str(error).rstrip(".").split("; download")[0]
        raise CacheError(
            f"expected a whole cache file but {path} is damaged ({reason}); "
            "delete it, the tokens will be prefilled again"
        ) from error
    return arrays, header


def _check_header(path: Path, header: dict[str, Any], fingerprint: str) -> None:
    if header.get("format") != FORMAT:
        raise CacheError(f"expected a cache file of this program but found another kind in {path}")
    if header.get("version") != VERSION:
        raise CacheError(
            f"expected cache version {VERSION} but {path} has {header.get('version')!r}; "
            "delete it, the tokens will be prefilled again"
        )
    if not {"layout", "details"} <= header.keys():
        raise CacheError(f"expected layout and details in {path} but they are missing; delete it")
    if header.get("fingerprint") != fingerprint:
        raise CacheError(
            f"expected a cache of this model but {path} was written for another one; "
            "load that model or delete the file"
        )
