"""A session as a cache file: what the file holds beside the state is kept in its details."""

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from dsv4_mlx.config import DeepseekV4Config
from dsv4_mlx.errors import CacheError
from dsv4_mlx.places import CacheSnapshot

if TYPE_CHECKING:
    from dsv4_mlx.engine import Engine

_LOGITS = "session.logits"


@dataclass(frozen=True)
class SavedSession:
    """A timeline and its places. Without logits its last token has to be read again."""

    state: list[Any]
    tokens: list[int]
    logits: mx.array | None = None  # float32 [V]
    metadata: dict[str, str] = field(default_factory=dict)
    places: list[CacheSnapshot] = field(default_factory=list)


def write(path: str | Path, saved: SavedSession, engine: "Engine") -> None:
    """Write a session that ``engine`` runs, whole or not at all."""
    details = dict(saved.metadata)
    if saved.logits is not None:
        values = np.array(saved.logits, dtype="<f4").tobytes()
        details[_LOGITS] = base64.b64encode(values).decode("ascii")
    engine.caches.save(
        path,
        saved.state,
        fingerprint=engine.model.fingerprint,
        tokens=saved.tokens,
        metadata=details,
        places=saved.places,
    )


def read(path: str | Path, engine: "Engine") -> SavedSession:
    """What ``write`` wrote; CacheError if it is damaged or of another model."""
    state, tokens, details, places = engine.caches.load(
        path, model=engine.model, fingerprint=engine.model.fingerprint
    )
    metadata = dict(details)
    text = metadata.pop(_LOGITS, None)
    logits = None if text is None else _decode_logits(text, engine.config, path)
    return SavedSession(state, list(tokens), logits, metadata, list(places))


def _decode_logits(text: str, config: DeepseekV4Config, path: str | Path) -> mx.array:
    """Float32 [V] from its text form."""
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")
    except ValueError as error:
        raise CacheError(f"{path}: the saved logits are damaged ({error}).") from error
    if values.shape != (config.vocab_size,):
        raise CacheError(
            f"{path}: {values.size} logits were saved and the model has {config.vocab_size}; "
            "it was not saved by a session of this model."
        )
    return mx.array(values)
