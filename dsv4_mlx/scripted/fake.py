"""A model without weights, for tests of everything above the model.

`FakeModel` predicts from the whole history of its cache, so a session that loses, repeats or
mixes up tokens predicts something else at once. `FakeCaches` does for its cache what
`dsv4_mlx.cache` does for the real one.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from dsv4_mlx.cache import CacheBytes, CacheOutline, DraftState
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.errors import CacheError
from dsv4_mlx.files.documents import content_of, parse_json
from dsv4_mlx.files.finishing import finish
from dsv4_mlx.release.config import FLASH, DeepseekV4Config

NextToken = Callable[[Sequence[int]], int]
"""The likeliest token after these."""


@dataclass
class FakeCache:
    """What a fake model remembers: every token it consumed."""

    history: list[int] = field(default_factory=list)
    marks: tuple[int, ...] = ()
    """Offsets inside the next call that are remembered."""
    block: int | None = None
    """Where rows that may be taken back began."""
    drafts: DraftState | None = None
    draft_moments: Mapping[int, DraftState] = field(default_factory=dict)

    @property
    def offset(self) -> int:
        return len(self.history)


@dataclass(frozen=True)
class FakeSnapshot:
    """A moment of a fake cache, with the size a test asks for."""

    history: tuple[int, ...]
    nbytes: int
    drafts: DraftState | None = None

    @property
    def offset(self) -> int:
        return len(self.history)


@dataclass
class FakeCaches:
    """The functions of `dsv4_mlx.cache` for lists of one FakeCache; counts what is asked."""

    snapshot_bytes: int = 1000
    snapshots: int = 0
    restored_to: list[int] = field(default_factory=list)

    def snapshot(self, cache: list[FakeCache]) -> FakeSnapshot:
        self.snapshots += 1
        _check_closed(cache)
        return FakeSnapshot(tuple(cache[0].history), self.snapshot_bytes, cache[0].drafts)

    def restore(self, cache: list[FakeCache], snapshot: FakeSnapshot) -> None:
        self.restored_to.append(snapshot.offset)
        one = cache[0]
        one.history, one.drafts = list(snapshot.history), snapshot.drafts
        one.marks, one.block, one.draft_moments = (), None, {}

    def mark(self, cache: list[FakeCache], offsets: Iterable[int]) -> None:
        _check_closed(cache)
        cache[0].marks, cache[0].draft_moments = tuple(sorted(offsets)), {}

    def marked(self, cache: list[FakeCache]) -> list[FakeSnapshot]:
        history, marks, drafts = cache[0].history, cache[0].marks, cache[0].draft_moments
        self.snapshots += len(marks)
        cache[0].marks, cache[0].draft_moments = (), {}
        return [
            FakeSnapshot(tuple(history[:offset]), self.snapshot_bytes, drafts.get(offset))
            for offset in marks
        ]

    def fork(self, cache: list[FakeCache]) -> list[FakeCache]:
        _check_closed(cache)
        return [FakeCache(list(cache[0].history), drafts=cache[0].drafts)]

    def compacted(self, moments: Sequence[FakeSnapshot]) -> list[FakeSnapshot]:
        return list(moments)

    def begin(self, cache: list[FakeCache]) -> None:
        _check_closed(cache)
        cache[0].block = cache[0].offset

    def commit(self, cache: list[FakeCache], keep: int) -> None:
        block, rows = cache[0].block, cache[0].offset - (cache[0].block or 0)
        if block is None or not 0 <= keep <= rows:
            raise CacheError(f"expected to keep 0 to {rows} rows of an open block, found {keep}.")
        # A new list, as after `restore`: whoever read the old one begins anew.
        cache[0].history, cache[0].block = cache[0].history[: block + keep], None

    def side_by_side(self, caches: Sequence[list[FakeCache]]) -> list[FakeCache]:
        for cache in caches:
            _check_closed(cache)
        return [cache[0] for cache in caches]

    def standing(self, caches: Sequence[list[FakeCache]]) -> Callable[[], None]:
        lengths = [cache[0].offset for cache in caches]

        def go_back() -> None:
            for cache, length in zip(caches, lengths, strict=True):
                cache[0].history = cache[0].history[:length]

        return go_back

    def drafts_of(self, cache: list[FakeCache]) -> DraftState | None:
        return cache[0].drafts

    def keep_drafts(
        self,
        cache: list[FakeCache],
        state: DraftState | None,
        moments: Mapping[int, DraftState] | None = None,
    ) -> None:
        cache[0].drafts, cache[0].draft_moments = state, dict(moments or {})

    def evaluated(self, cache: list[FakeCache]) -> list[mx.array]:
        return []

    def sizes(self, cache: list[FakeCache]) -> CacheBytes:
        """Four bytes for each token, as if all were compressed entries."""
        return CacheBytes(self.snapshot_bytes, 4 * cache[0].offset, 0)

    def save(
        self,
        path: str | Path,
        cache: list[FakeCache],
        *,
        fingerprint: str,
        tokens: list[int],
        notes: dict[str, str],
        beside: dict[str, mx.array],
        places: Sequence[FakeSnapshot] = (),
        parent: str = "",
        since: int = 0,
    ) -> None:
        _check_closed(cache)
        offsets = [place.offset for place in places]
        arrays = {name: array.tolist() for name, array in beside.items()}
        grown = cache[0].history[since:], tokens[since:]
        content = [fingerprint, *grown, notes, arrays, offsets, parent, since]
        unfinished = Path(path).with_name(f".{Path(path).name}.safetensors")
        unfinished.touch(0o600)
        unfinished.write_text(json.dumps(content), encoding="utf-8")

        def name() -> None:
            unfinished.replace(path)

        finish(name)

    def outline(self, path: str | Path) -> CacheOutline:
        found, _, tokens, _, _, offsets, parent, since = _content(path)
        return CacheOutline(found, tokens, offsets, parent, since)

    def load(
        self, path: str | Path, *, model: Any, fingerprint: str
    ) -> tuple[list[FakeCache], list[int], dict[str, str], dict[str, mx.array], list[FakeSnapshot]]:
        found, history, tokens, notes, arrays, offsets, parent, since = _content(path)
        beside = {name: mx.array(values) for name, values in arrays.items()}
        if found != fingerprint:
            raise CacheError(f"{path} was saved by {found!r}, not by {fingerprint!r}.")
        if parent:
            (before,), known, *_ = self.load(
                Path(path).with_name(parent), model=model, fingerprint=fingerprint
            )
            history, tokens = before.history[:since] + history, known[:since] + tokens
        places = [FakeSnapshot(tuple(history[:n]), self.snapshot_bytes) for n in offsets]
        return [FakeCache(history)], tokens, notes, beside, places


def _content(path: str | Path) -> list[Any]:
    """What `save` wrote; CacheError where that is damaged."""
    try:
        content: list[Any] = parse_json(content_of(Path(path)))
        if len(content) != 8 or not isinstance(content[4], dict):
            raise ValueError(f"{len(content)} parts")
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise CacheError(f"{path} is damaged ({error}); delete it.") from error
    return content


def _check_closed(cache: list[FakeCache]) -> None:
    if cache[0].block is not None:
        raise CacheError("expected a cache without an open block but found one; commit it first.")


class FakeModel:
    """Predicts `next_token` of the history; every other token gets a logit of its own.

    `calls` lists the number of tokens of each call. Set `fail_at` to an offset, and the call
    that would consume the token there raises RuntimeError, once. A call of at most `exact_rows`
    tokens has logits after each of them; so has one of a token of each of several caches, which
    engines make where there is a `row_finding` that allows it.
    """

    fingerprint = "fake"
    exact_rows = 1
    row_finding: Any = None

    def __init__(self, next_token: NextToken | None = None, *, vocab_size: int = 300, **sizes: Any):
        self.config: DeepseekV4Config = FLASH.replace(vocab_size=vocab_size, **sizes)
        self.next_token = next_token
        self.calls: list[int] = []
        self.fail_at: int | None = None

    def make_cache(self) -> list[FakeCache]:
        return [FakeCache()]

    def __call__(self, tokens: mx.array, cache: list[FakeCache]) -> mx.array:
        """Token ids [1, S] -> logits [1, S, V] float32, NaN where there are none."""
        new = [int(token) for token in np.array(tokens[0])]
        states = cache * len(new) if len(cache) == 1 else cache
        self.calls.append(len(new))
        logits = np.full((1, len(new), self.config.vocab_size), np.nan, np.float32)
        for row, (token, state) in enumerate(zip(new, states, strict=True)):
            if state.offset == self.fail_at:
                self.fail_at = None
                raise RuntimeError("the fake model was told to fail")
            state.history.append(token)
            if len(cache) > 1 or row == len(new) - 1 or len(new) <= self.exact_rows:
                logits[0, row] = self.logits(state.history)
        return mx.array(logits)

    def last_logits(self, tokens: mx.array, cache: list[FakeCache]) -> mx.array:
        """Logits [1, V] after the last of the tokens."""
        return self(tokens, cache)[:, -1]

    def logits(self, history: Sequence[int]) -> np.ndarray:
        """[V] float32 after `history`, the same on every machine."""
        digest = hashlib.blake2b(struct.pack(f"<{len(history)}I", *history), digest_size=8)
        random = np.random.default_rng(int.from_bytes(digest.digest(), "little"))
        logits = random.standard_normal(self.config.vocab_size).astype(np.float32)
        if self.next_token is not None:
            logits[self.next_token(history)] = 20.0
        return logits


def scripted(replies: Sequence[Sequence[int]], assistant_id: int, eos_id: int) -> NextToken:
    """Answer turn after turn from `replies`, each ended by `eos_id`.

    A reply begins after the assistant token and the thinking tag that follows it.
    """

    def next_token(history: Sequence[int]) -> int:
        turn = history.count(assistant_id) - 1
        if turn < 0:
            return eos_id
        since = len(history) - 1 - max(i for i, t in enumerate(history) if t == assistant_id)
        reply = [*replies[turn % len(replies)], eos_id]
        return reply[min(max(since - 1, 0), len(reply) - 1)]

    return next_token


def fake_engine(model: FakeModel | None = None, **options: Any) -> Engine:
    """An engine on a fake model; `options` are the engine's."""
    options.setdefault("caches", FakeCaches())
    return Engine(model or FakeModel(), **options)
