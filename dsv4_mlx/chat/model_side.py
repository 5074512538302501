"""The model's side of a conversation: its turns, and the session that has read them.

An answer replaces the turns only when it is complete, so that an error leaves them as they were.
What the session holds need not match: it reads what is missing and goes back where it must.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING

from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.budget import ReasoningBudget
from dsv4_mlx.chat.events import Done, Event, Progress, Usage
from dsv4_mlx.chat.prefixes import Prefixes, keep, stable_length, started, wanted
from dsv4_mlx.chat.prompting import PromptTokens, PromptWriter
from dsv4_mlx.chat.reply import Reply
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.errors import CacheError

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.engine.engine import Engine
    from dsv4_mlx.engine.expert_use import ExpertUse
    from dsv4_mlx.engine.moments import Sync
    from dsv4_mlx.engine.session import Session

Emit = Callable[[Event], None]
# Tokens from one place of a prompt to the next: what going back may read again, at most.
_APART = 512


@dataclass(frozen=True)
class ContextUse:
    """How full the context is, in tokens, and what the cache holds, in bytes."""

    used: int
    limit: int
    window_bytes: int = 0
    compressed_bytes: int = 0
    index_bytes: int = 0
    drafts_know: int | None = None
    """Tokens that drafts are made from; 0 while they begin cold, None where none are needed."""
    table_reads: Mapping[str, int] = field(default_factory=dict)
    """Rows of Engram's tables so far, `kept`, `ahead` and `missed`, and `bytes` read; empty where
    no table is in files."""
    experts: "ExpertUse | None" = None
    """What was found of the model's experts so far; None where all are in memory."""


@dataclass(frozen=True)
class AnswerRequest:
    """What to answer: the turns that stay, and the turn whose next reply is wanted."""

    kept: tuple[Turn, ...]
    turn: Turn
    shared: str = ""
    asked_at: float = 0.0
    """When the answer was asked for, by `time.perf_counter`."""

    @property
    def turns(self) -> tuple[Turn, ...]:
        return (*self.kept, self.turn)

    @property
    def calls(self) -> int:
        """Tool calls so far; ids go on from there."""
        return sum(len(m.get("tool_calls") or ()) for turn in self.turns for m in turn.messages)


class ModelSide:
    """Turns and session of one conversation, for the model's thread alone.

    Only `turns` and `use` may be touched from elsewhere.
    """

    def __init__(
        self,
        engine: "Engine",
        tokenizer: "Tokenizer",
        writer: PromptWriter,
        turns: tuple[Turn, ...],
        prefixes: Prefixes | None,
    ) -> None:
        self.turns = turns
        self.use = ContextUse(0, engine.max_context)
        self._engine = engine
        self._tokenizer = tokenizer
        self._writer = writer
        self._prefixes = prefixes
        self._session: Session | None = None
        self._answers = len(turns)  # ever begun: each draws with a seed of its own

    def answer(
        self, request: AnswerRequest, settings: AnswerSettings, cancelled: Flag, emit: Emit
    ) -> None:
        """Generate the reply that `request` asks for; Done is the last event that `emit` is given.

        PromptError for a prompt that the context does not hold; the turns are then as before.
        """
        prompt, shared = self._prompt(request, settings)
        try:
            done = self._replied(request, prompt, shared, settings, cancelled, emit)
        finally:
            self._measure()
        emit(done)
        if self._session is not None:
            keep(self._session, shared)

    def undo(self, settings: AnswerSettings) -> str:
        """Forget the last turn, and return to where it began; what was asked in it."""
        *kept, last = self.turns
        start = self._writer.write([*kept, Turn.asking("")], settings)
        end = start.boundaries[-1]
        # Written in another mode the timeline goes another way; the next answer finds its place.
        if self._session is not None and self._session.tokens[:end] == start.tokens[:end]:
            self._session.rewind(end)
        self.turns = tuple(kept)
        self._measure()
        return last.text

    def fork(self) -> "ModelSide":
        """A second model side that begins with these turns and goes on independently."""
        other = copy(self)
        other._writer = self._writer.fork()
        other._session = None if self._session is None else self._session.fork()
        return other

    def clear(self) -> None:
        """Forget the turns and what the session has read."""
        self.turns, self._session, self._answers = (), None, 0
        self._measure()

    def prompt_tokens(self, turns: Sequence[Turn], text: str, settings: AnswerSettings) -> int:
        """How many tokens the prompt has that asks `text` after `turns`."""
        return len(self._writer.write([*turns, Turn.asking(text)], settings).tokens)

    def save(self, path: str | Path) -> None:
        """Write the session's state with its places; CacheError when there is none."""
        if self._session is None:
            raise CacheError("There is nothing to save; the model has read nothing yet.")
        self._session.save(path)

    def load(self, path: str | Path) -> None:
        """Take the state that `save` wrote; CacheError, and nothing changed, if it does not fit."""
        session = self._engine.session()
        session.load(path)
        self._session = session
        self._measure()

    def _prompt(
        self, request: AnswerRequest, settings: AnswerSettings
    ) -> tuple[PromptTokens, dict[int, Path]]:
        """The prompt, and the beginnings of it to keep for other prompts: length and path."""
        if self._prefixes is None or request.kept:
            return self._writer.write(request.turns, settings), {}
        alone = (
            self._writer.write([Turn.asking(request.shared)], settings) if request.shared else None
        )
        prompt = self._writer.write(request.turns, settings)
        lengths = {prompt.boundaries[0]}  # the system part
        if alone is not None:
            shared = alone.tokens[: alone.question_end]
            lengths.add(stable_length(prompt.tokens, shared, self._tokenizer.token_bytes))
        return prompt, wanted(prompt.tokens, sorted(lengths), self._prefixes)

    def _replied(
        self,
        request: AnswerRequest,
        prompt: PromptTokens,
        shared: Collection[int],
        settings: AnswerSettings,
        cancelled: Flag,
        emit: Emit,
    ) -> Done:
        """Read the prompt, generate the reply and keep it; places lie at `shared` lengths too."""
        reply = Reply(
            self._tokenizer,
            settings.effective_thinking,
            emit,
            budget=ReasoningBudget(settings.budget),
            tools=settings.tools,
            stop=settings.stop,
            loops=settings.loops,
            calls_before=request.calls,
        )
        self._engine.drafting.use(settings.draft, settings.draft_max)
        started_at = time.perf_counter()
        before = self._engine.expert_use
        session, read = self._read(prompt, shared, cancelled, emit)
        prefill_s, between = time.perf_counter() - started_at, self._engine.expert_use
        if not read.cancelled:
            self._generate(session, reply, settings, cancelled)
        said = reply.close()
        if said.stop_text is not None:
            session.rewind(len(prompt.tokens) + said.kept)
        turn = request.turn.answered(said.message, said.thought, said.answer)
        self.turns = (*request.kept, turn)
        count = Usage(len(prompt.tokens), read.reused, reply.generated, reply.reasoning_tokens)
        timing = reply.timing(request.asked_at, prefill_s)
        use = None if read.cancelled else session.draft_use
        found = self._engine.row_finding
        rows = None if found is None else found.exact_rows
        absent = self._engine.drafting.not_loaded or None
        piped = self._engine.pipeline
        done = Done(said.finish_reason, count, timing, said.stop_text, use, rows, absent, piped)
        if (now := self._engine.expert_use) is None:
            return done
        use_of_reply = now.since(between)
        if self._engine.on_expert_use is not None:
            self._engine.on_expert_use(use_of_reply)
        return replace(done, experts=now.since(before), reply_experts=use_of_reply)

    def _read(
        self, prompt: PromptTokens, shared: Collection[int], cancelled: Flag, emit: Emit
    ) -> "tuple[Session, Sync]":
        """Bring the session to the prompt."""
        session = self._session
        if session is None or not len(session):
            session = self._session = started(self._engine, prompt.tokens, self._prefixes)
        boundaries = _apart(prompt.boundaries, _APART)
        now = Progress(0, len(prompt.tokens))

        def tell(done: int, total: int) -> None:
            nonlocal now
            now = Progress(done, total)
            emit(now)

        read = session.sync(
            prompt.tokens,
            tell,
            cancelled,
            places=[*boundaries, *shared],
            on_layer=lambda passed, layers: emit(replace(now, layers=(passed, layers))),
        )
        return session, read

    def _generate(
        self, session: "Session", reply: Reply, settings: AnswerSettings, cancelled: Flag
    ) -> None:
        sampling, number = settings.sampling, self._answers
        self._answers += 1
        if sampling.seed is not None:
            # Another seed for every answer, or a question asked again would be answered the same.
            sampling = replace(sampling, seed=sampling.seed + number)
        stream = session.stream(
            settings.max_tokens,
            **asdict(sampling),
            cancel=cancelled,
            steer=reply.steer,
            regime=reply.regime,
        )
        reply.write(stream, session.hold)
        self._engine.drafting.store()

    def _measure(self) -> None:
        limit, session = self._engine.max_context, self._session
        if session is None:
            self.use = ContextUse(0, limit)
            return
        sizes = session.sizes()
        self.use = ContextUse(
            len(session),
            limit,
            sizes.window,
            sizes.compressed,
            sizes.index,
            session.drafts_know,
            session.table_reads(),
            self._engine.expert_use,
        )


def _apart(boundaries: Sequence[int], distance: int) -> list[int]:
    """The last boundary, and of those before it as many as lie that far apart.

    Each costs a snapshot of its moment, and a dialogue of many short turns would take many.
    """
    chosen: list[int] = []
    for offset in reversed(boundaries):
        # `<bos>` alone is not worth a place.
        if offset > 1 and (not chosen or chosen[-1] - offset >= distance):
            chosen.append(offset)
    return chosen
