"""A session as a cache file: what the file holds beside the state is kept in its details."""

import base64
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from dsv4_mlx.errors import CacheError
from dsv4_mlx.running import Running
from dsv4_mlx.timeline import Timeline

_LOGITS = "session.logits"


def write(path: str | Path, timeline: Timeline, notes: Mapping[str, str], place_bytes: int) -> None:
    """Write what `timeline` has read, whole or not at all, and its latest places.

    As many places as `place_bytes` hold. Without logits the last token has to be read again.
    """
    details = dict(notes)
    if timeline.logits is not None:
        values = np.array(timeline.logits, dtype="<f4").tobytes()
        details[_LOGITS] = base64.b64encode(values).decode("ascii")
    running = timeline.running
    running.caches.save(
        path,
        timeline.cache,
        fingerprint=running.model.fingerprint,
        tokens=timeline.tokens[: timeline.consumed],
        metadata=details,
        places=timeline.places.latest(place_bytes),
    )


def read(path: str | Path, running: Running) -> tuple[Timeline, dict[str, str]]:
    """The timeline and the notes that `write` was given.

    CacheError if the file is damaged or of another model.
    """
    cache, tokens, details, places = running.caches.load(
        path, model=running.model, fingerprint=running.model.fingerprint
    )
    timeline = Timeline(running, cache, tokens)
    notes = dict(details)
    if (text := notes.pop(_LOGITS, None)) is not None:
        timeline.logits = _decode_logits(text, running.config.vocab_size, path)
    for place in places:
        timeline.places.add(place)
    return timeline, notes


def _decode_logits(text: str, vocab_size: int, path: str | Path) -> mx.array:
    """Float32 [V] from its text form."""
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")
    except ValueError as error:
        raise CacheError(f"{path}: the saved logits are damaged ({error}).") from error
    if values.shape != (vocab_size,):
        raise CacheError(
            f"{path}: {values.size} logits were saved and the model has {vocab_size}; "
            "it was not saved by a session of this model."
        )
    return mx.array(values)
