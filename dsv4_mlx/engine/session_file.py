"""A session as a cache file: the timeline, its places, and the logits beside them."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from dsv4_mlx.engine.running import Running
from dsv4_mlx.engine.timeline import Timeline
from dsv4_mlx.errors import CacheError

_LOGITS = "logits"
_LOGITS_NOTE = "session.logits"
"""Where versions 2 and 3 of cache files have the logits, as base64 of little-endian float32."""


def write(
    path: str | Path,
    timeline: Timeline,
    notes: Mapping[str, str],
    place_bytes: int,
    parent: str = "",
    since: int = 0,
) -> None:
    """Write what `timeline` has read, whole or not at all, and its latest places.

    As many places as `place_bytes` hold. Without logits the last token has to be read again.
    With a `parent` only what comes after `since` tokens, see `dsv4_mlx.cache.pieces`.
    """
    running = timeline.running
    places = [one for one in timeline.places.latest(place_bytes) if one.offset > since]
    piece: dict[str, Any] = {"parent": parent, "since": since} if parent else {}
    with timeline.remembered():
        running.caches.save(
            path,
            timeline.cache,
            fingerprint=running.model.fingerprint,
            tokens=timeline.tokens[: timeline.consumed],
            notes=dict(notes),
            beside={} if timeline.logits is None else {_LOGITS: timeline.logits},
            places=places,
            **piece,
        )


def read(path: str | Path, running: Running) -> tuple[Timeline, dict[str, str]]:
    """The timeline and the notes that `write` was given.

    CacheError if the file is damaged or of another model.
    """
    cache, tokens, notes, beside, places = running.caches.load(
        path, model=running.model, fingerprint=running.model.fingerprint
    )
    timeline = Timeline(running, cache, tokens)
    if _LOGITS_NOTE in notes:
        beside = {_LOGITS: _decoded(notes.pop(_LOGITS_NOTE), path)}
    if _LOGITS in beside:
        timeline.logits = _checked(beside[_LOGITS], running.config.vocab_size, path)
    for place in places:
        timeline.places.add(place)
    return timeline, notes


def _decoded(text: str, path: str | Path) -> mx.array:
    """Float32 [V] from its text form."""
    try:
        return mx.array(np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4"))
    except ValueError as error:
        raise CacheError(f"{path}: the saved logits are damaged ({error}).") from error


def _checked(logits: mx.array, vocab_size: int, path: str | Path) -> mx.array:
    """`logits`, float32 [V]; CacheError for those of another vocabulary."""
    if logits.dtype != mx.float32 or logits.shape != (vocab_size,):
        raise CacheError(
            f"{path}: {logits.size} logits were saved and the model has {vocab_size}; "
            "it was not saved by a session of this model."
        )
    return logits
