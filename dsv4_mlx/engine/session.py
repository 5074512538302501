"""One timeline of a model, as its users call it.

`sync` makes the timeline equal to a prompt and reads as little as possible, `stream` makes it
grow, `rewind` shortens it without reading anything. The calls, their thread and their errors are
listed in `dsv4_mlx.engine.engine`.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from dsv4_mlx.cache import CacheBytes
from dsv4_mlx.engine import session_file
from dsv4_mlx.engine.draft_history import DraftUse, Regime
from dsv4_mlx.engine.draws import Drawn, Draws
from dsv4_mlx.engine.generation import Sampler, Steer, Token, make_sampler, stream_end
from dsv4_mlx.engine.logit_changes import make_changes
from dsv4_mlx.engine.moments import OnLayer, OnProgress, SessionSnapshot, Sync
from dsv4_mlx.engine.passes import Passes
from dsv4_mlx.engine.places import Places
from dsv4_mlx.engine.protocols import Flag
from dsv4_mlx.engine.running import Running
from dsv4_mlx.engine.sampling import NO_SHIFTS, Shifts
from dsv4_mlx.engine.speculation import drafted_tokens
from dsv4_mlx.engine.timeline import Timeline
from dsv4_mlx.errors import CacheError, PromptError, UsageError

SAVED_PLACE_BYTES = 1 << 28
_LOOK_EVERY = 256
"""Tokens generated from one look at what the session has grown by to the next."""


class Session:
    """One timeline: token ids, the model's state after them, and the logits that follow."""

    def __init__(self, running: Running, timeline: Timeline | None = None) -> None:
        self._running = running
        self._line = Timeline(running) if timeline is None else timeline
        self._edition = 0  # changes whenever a running stream loses its place
        self._passes: Passes | None = None

    @property
    def _settled(self) -> Timeline:
        """The timeline, for calls that a block of drafts must not be open for."""
        self._line.settle()
        return self._line

    @property
    def _timeline(self) -> Timeline:
        """The same for calls that go on from the last token, or return to it."""
        self._settled.read_shown()
        return self._line

    def _move_on(self) -> None:
        """End the stream that is running, if one is."""
        self._edition += 1
        self._line.draws = None
        self._running.replies.discard(self)

    @property
    def tokens(self) -> list[int]:
        """The token ids so far."""
        return list(self._line.tokens)

    def __len__(self) -> int:
        return len(self._line.tokens)

    @property
    def places(self) -> Places:
        """The places this session can return to cheaply."""
        return self._settled.places

    def sync(
        self,
        tokens: Sequence[int],
        on_progress: OnProgress | None = None,
        cancel: Flag | None = None,
        places: Collection[int] = (),
        on_layer: OnLayer | None = None,
    ) -> Sync:
        """Make the timeline equal to `tokens`, reading as little as possible.

        Keeps the longest common prefix, from the nearest snapshot on. A set `cancel` flag ends
        it after the chunk being read; the timeline then holds what was read. `places` are
        offsets, in tokens, worth returning to: where the reading passes one, it takes a snapshot.
        A model whose experts lie in files passes up to 32,768 tokens through a layer before the
        next, which `on_layer` is told; a flag ends it before a layer, and of these tokens none is
        read then.
        PromptError, and an unchanged timeline, for tokens that the model cannot answer.
        """
        target = self._running.check(tokens)
        self._move_on()
        return self._timeline.sync(target, on_progress, cancel, places, on_layer)

    def reading(
        self,
        tokens: Sequence[int],
        places: Collection[int] = (),
        on_layer: OnLayer | None = None,
    ) -> Iterator[int]:
        """What `sync` does, a chunk at a time: gives the tokens found, then those held after each.

        Chunks end at multiples of the engine's chunk, so that where a reading is cut hangs on where
        it begins alone; a model whose experts lie in files has passes of 32,768 tokens in their
        place. Leaving the iterator leaves the timeline at what was read.
        PromptError, and an unchanged timeline, for tokens that the model cannot answer.
        """
        target = self._running.check(tokens)
        self._move_on()
        return self._timeline.reading(target, places, on_layer)

    def stream(
        self,
        max_tokens: int | None = None,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int | None = None,
        top_k: int = 0,
        repetition_penalty: float = 1.0,
        shifts: Shifts = NO_SHIFTS,
        likeliest: int = 0,
        sampler: Sampler | None = None,
        stop_ids: Collection[int] | None = None,
        cancel: Flag | None = None,
        steer: Steer | None = None,
        regime: Callable[[], Regime] | None = None,
    ) -> Iterator[Token]:
        """Generate up to `max_tokens` tokens, by default until EOS or the end of the context.

        A stop token is yielded too, as the last one. Closing the iterator or setting `cancel`
        leaves the timeline exactly at the tokens yielded. The penalty counts the tokens of the
        timeline, the prompt's too; `shifts` count those of this stream. `sampler` takes the place
        of the other sampling options, and a token that `steer` gives that of a draw. So many of the
        model's `likeliest` tokens are given beside each. `regime` tells what is being written, as
        drafts are right at another rate in each. PromptError when there is no prompt yet;
        UsageError for a setting outside its range, and from the iterator once the session has
        moved on otherwise.
        """
        sampler = sampler or make_sampler(temperature, top_p, min_p, seed, top_k)
        stops = set(self._running.config.stop_token_ids if stop_ids is None else stop_ids)
        if max_tokens is not None and max_tokens < 0:
            raise UsageError(f"max_tokens must be 0 or more, got {max_tokens}.")
        if not len(self):
            raise PromptError("There is no prompt to continue; sync one first.")
        self._move_on()
        tokens, running = self._settled.tokens, self._running
        changes = make_changes(repetition_penalty, shifts, tokens, running.config.vocab_size)
        draws = Draws(sampler, changes, steer, likeliest)
        self._passes = None
        if (controller := running.drafting.controller) is not None:
            self._passes = Passes(controller, regime, decodes_many=self._line.decodes_many)
        return self._generate(max_tokens, draws, self._passes, stops, cancel, self._edition)

    def rest(self) -> None:
        """Nobody takes more of the reply under way for now, so that it keeps no other one from
        being drafted; the next token ends that."""
        self._running.replies.discard(self)
        if self._passes is not None:
            self._passes.interrupt()

    @property
    def joining(self) -> Timeline | None:
        """The timeline where a round may start its next token, see `rounds`."""
        return self._line if self._line.may_join else None

    @property
    def draft_use(self) -> DraftUse | None:
        """What drafts did for the latest reply; None where the engine has no drafter."""
        return None if self._passes is None else self._passes.use

    def rewind(self, offset: int) -> int:
        """Shorten the timeline to `offset` tokens without reading anything; returns its length.

        That is the nearest place before `offset` when there is none there.
        """
        self._move_on()
        return self._timeline.rewind(offset)

    def hold(self) -> None:
        """Let `rewind` return here, until the next such moment; as cheap as a snapshot."""
        self._timeline.hold()

    def snapshot(self) -> SessionSnapshot:
        """This point of the timeline: the fixed-size state, and counts for all that grows.

        PromptError when there is no prompt yet.
        """
        return self._timeline.snapshot()

    def moment(self) -> SessionSnapshot:
        """This point without reading anything: logits may be None, and tokens that a failure left
        unread are none of its. Good for `restore` by any session of the engine."""
        return self._timeline.moment()

    def restore(self, snapshot: SessionSnapshot) -> None:
        """Return to a point of this session, or of another one of the same engine.

        The places after what both timelines have in common are forgotten.
        """
        self._move_on()
        self._timeline.restore(snapshot)

    def fork(self) -> "Session":
        """A second session whose timeline begins with this one; what is common is stored once."""
        return Session(self._running, self._timeline.fork())

    def sizes(self) -> CacheBytes:
        """What the state holds in bytes, by its parts."""
        return self._running.caches.sizes(self._settled.cache)

    def table_reads(self) -> dict[str, int]:
        """What the model read of tables in files so far, for all its timelines; see
        `Model.table_reads`."""
        return dict(getattr(self._running.model, "table_reads", dict)())

    @property
    def drafts_know(self) -> int | None:
        """Tokens that drafts are made from; 0 while they begin cold, None where none are needed."""
        return self._settled.drafts_know

    def save(
        self,
        path: str | Path,
        notes: Mapping[str, str] | None = None,
        *,
        place_bytes: int = SAVED_PLACE_BYTES,
        parent: str = "",
        since: int = 0,
    ) -> None:
        """Write the timeline to a file, with `notes` for whoever loads it.

        Its latest places are written with it, as many as `place_bytes` hold. Where a file `parent`
        of the same folder holds the first `since` tokens, only what grew since. CacheError when
        there is nothing to save or no room; an older file is then left as it was.
        """
        if not self._timeline.consumed:
            raise CacheError("There is nothing to save; the session holds no tokens.")
        session_file.write(path, self._timeline, notes or {}, place_bytes, parent, since)

    def save_place(self, path: str | Path, offset: int) -> None:
        """Write the first `offset` tokens to a file; CacheError unless there is a place."""
        session_file.write(path, self._timeline.beginning(offset), {}, 0)

    def load(self, path: str | Path) -> dict[str, str]:
        """Replace the timeline by a saved one, its places included, and return its notes.

        A file without logits, of an earlier version, starts with no places: its last tokens are
        read again before the next answer.
        CacheError, and an unchanged session, if the file is damaged or of another model.
        """
        timeline, notes = session_file.read(path, self._running)
        self._move_on()
        self._line = timeline
        return notes

    def _generate(
        self,
        max_tokens: int | None,
        draws: Draws,
        passes: Passes | None,
        stops: set[int],
        cancel: Flag | None,
        edition: int,
    ) -> Iterator[Token]:
        timeline = self._timeline
        room = self._running.max_context - len(self)
        limit = room if max_tokens is None else min(max_tokens, room)
        timeline.begin_reply()
        if timeline.logits is None and limit:
            timeline.catch_up(cancel)
        tokens: Iterator[Drawn]
        if self._running.blocks:
            tokens = timeline.shown(draws, limit, stops)
        elif passes is None:
            tokens = (timeline.step(draws)[0] for _ in range(limit))
        else:
            tokens = drafted_tokens(timeline, draws, passes, limit, stops)
        try:
            for number in range(1, limit + 1):
                if cancel is not None and cancel.is_set() and timeline.started is None:
                    return
                if edition != self._edition:
                    raise UsageError("This stream has ended: its session has moved on since.")
                self._running.replies.add(self)
                drawn = next(tokens)
                finish = stream_end(drawn.id in stops, number == limit)
                timeline.draws = draws if finish is None else None
                yield Token(drawn.id, drawn.logprob, finish, drawn.likeliest)
                if finish is not None:
                    return
                if number % _LOOK_EVERY == 0:
                    self._running.memory.keep_up()
        finally:
            if edition == self._edition:
                self._running.replies.discard(self)
                timeline.draws = None
            timeline.settle()
            if passes is not None:
                passes.end()
