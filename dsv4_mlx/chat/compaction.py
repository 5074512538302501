"""Making a long conversation short: its older turns give way to a summary that the model writes.

A summary is a turn like any other, so that everything that reads turns can read it: in its question
stands what it takes the place of, and its answer is what the model said. Turns are summarised whole
or stay whole, with all their tool calls and results.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dsv4_mlx.chat.conversation import Conversation
from dsv4_mlx.chat.events import Done, Event
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.errors import UsageError

KEPT_TURNS = 2
KEPT_SHARE = 4
"""The last turns stay as they are, so many of them as long as they take less than this share of
the context."""
LONGEST_SUMMARY = 8_192
"""Tokens, reasoning included; in a small context a quarter of it."""
COMPACTED = "compacted"
"""The key of a question that says how many turns the summary stands for."""
_SHORTEST = 200
_ASK = """\
Summarise our conversation up to this point. It will go on from your summary alone, so keep what \
was asked, decided and found out and why, names, numbers, file paths and code that are still \
needed, what tools were called for and what they gave, and what is still open. Leave out what no \
longer matters. Write plain text and call no tools."""


def stands_for(turn: Turn) -> int:
    """How many turns `turn` takes the place of: 0 when it is no summary."""
    count = turn.messages[0].get(COMPACTED)
    return count if type(count) is int and count > 0 else 0


def summary_title(turn: Turn) -> str:
    """The title of the conversation that `turn` summarises; "" for a turn that is no summary."""
    first = turn.text.partition("\n")[0]
    return first.removeprefix("[compacted] ") if stands_for(turn) else ""


@dataclass(frozen=True)
class Compacted:
    """A shortened conversation; `before` and `after` count the tokens of its prompt."""

    turns: tuple[Turn, ...]
    before: int
    after: int
    summarised: int
    """Turns that a summary stands for now."""


class Compaction:
    """Summarises the older turns of `conversation`, a fork that nobody else uses, step by step.

        while compaction.is_unfinished:
            for event in compaction.step(): ...
        compacted = compaction.result()

    A history that does not fit the context takes several steps: each summarises what fits together
    with the summary before it. UsageError says why nothing came of it.
    """

    def __init__(self, conversation: Conversation, *, title: str, hint: str = "") -> None:
        self.conversation = conversation
        self._limit = conversation.context().limit
        self._room = min(LONGEST_SUMMARY, self._limit // 4)
        self._ask = f"{_ASK}\n\nPay most attention to this: {hint}" if hint else _ASK
        self._title = title
        self._turns = conversation.turns
        self._last = self._turns[len(self._turns) - self._kept() :]
        self._rest = list(self._turns[: len(self._turns) - len(self._last)])
        if not self._rest or (len(self._rest) == 1 and stands_for(self._rest[0])):
            raise UsageError(_too_short(len(self._turns), len(self._last)))
        self.older = len(self._rest)
        """Turns that are summarised."""
        self._before = self._tokens(self._turns)
        self._summary: Turn | None = None
        self._covered = 0
        # The person's limits are for answers; this has its own.
        conversation.settings = replace(
            conversation.settings,
            max_tokens=self._room,
            budget=self._room // 2,
            stop=(),  # a summary may say them
            loops="stop",
        )

    @property
    def is_unfinished(self) -> bool:
        """Whether older turns are left to summarise."""
        return bool(self._rest)

    def step(self) -> Iterator[Event]:
        """The events of one summary, Done last."""
        head = () if self._summary is None else (self._summary,)
        count = self._fitting(head)
        taken, self._rest = self._rest[:count], self._rest[count:]
        self.conversation.turns = (*head, *taken)
        done: Done | None = None
        for event in self.conversation.send(self._ask):
            if isinstance(event, Done):
                done = event
            yield event
        self._covered += sum(stands_for(turn) or 1 for turn in taken)
        self._take(done)

    def result(self) -> Compacted:
        """The conversation as it goes on."""
        assert self._summary is not None
        turns = (self._summary, *self._last)
        after = self._tokens(turns)
        if after >= self._before:
            raise UsageError(
                f"a summary takes {after:,} tokens and the conversation {self._before:,}; "
                "nothing was changed."
            )
        return Compacted(turns, self._before, after, self._covered)

    def _take(self, done: Done | None) -> None:
        said = self.conversation.turns[-1]
        message = said.messages[-1]
        finish = "cancelled" if done is None else done.finish_reason
        if finish == "cancelled":
            raise UsageError("stopped; nothing was changed.")
        if finish == "length":
            raise UsageError(
                f"the summary did not end within {self._room:,} tokens; nothing was changed."
            )
        if finish == "loop":
            raise UsageError("the summary ran in a loop; nothing was changed.")
        if finish == "tool_calls" or message.get("tool_calls"):
            raise UsageError("the model called a tool and wrote no summary; nothing was changed.")
        if not str(message.get("content") or "").strip():
            raise UsageError("the model wrote no summary; nothing was changed.")
        answer = said.said()[-1][1]
        self._summary = _summary(self._title, self._covered, message, answer)

    def _kept(self) -> int:
        """How many of the last turns stay."""
        whole = self._tokens(self._turns)
        kept = 0
        while kept < min(KEPT_TURNS, len(self._turns)):
            before = self._tokens(self._turns[: len(self._turns) - kept - 1])
            if whole - before > self._limit // KEPT_SHARE:
                break
            kept += 1
        return kept

    def _fitting(self, head: Sequence[Turn]) -> int:
        """How many of the turns that are left fit after `head`; the first is cut if none does."""

        def fits(count: int) -> bool:
            tokens = self._tokens((*head, *self._rest[:count]), self._ask)
            return tokens + self._room <= self._limit

        if fits(len(self._rest)):
            return len(self._rest)
        least, most = 0, len(self._rest)  # the first fits, the other does not
        while most - least > 1:
            middle = (least + most) // 2
            least, most = (middle, most) if fits(middle) else (least, middle)
        if not least:
            self._cut_first(lambda: fits(1))
        return max(least, 1)

    def _cut_first(self, fits: Callable[[], bool]) -> None:
        whole = self._rest[0]
        text = _as_text(whole)
        most = len(text)
        while not fits():
            most //= 2
            if most < _SHORTEST:
                raise UsageError(
                    f"the context of {self._limit:,} tokens is too small to summarise in; choose a "
                    "model with a larger one."
                )
            self._rest[0] = _cut(whole, text, most)

    def _tokens(self, turns: Sequence[Turn], text: str = "") -> int:
        return self.conversation.prompt_tokens(turns, text)


def _too_short(turns: int, kept: int) -> str:
    if not turns:
        return "there is nothing to compact yet; send a message first."
    stays = "the last one stays as it is" if kept == 1 else f"the last {kept} stay as they are"
    has = "1 turn" if turns == 1 else f"{turns} turns"
    return f"there is nothing to compact: the conversation has {has}, and {stays}."


def _summary(title: str, count: int, message: dict[str, Any], answer: tuple[int, ...]) -> Turn:
    turns = "The first turn" if count == 1 else f"The first {count:,} turns"
    question = (
        f"[compacted] {title}\n\n[{turns} of this conversation stood here. Your summary follows "
        "in their place.]"
    )
    # Its reasoning has done its work.
    said = {**message, "reasoning_content": ""}
    asked = {"role": "user", "content": question, COMPACTED: count}
    return Turn((asked, said), (answer,))


def _cut(turn: Turn, text: str, most: int) -> Turn:
    """A turn that alone is too long to be read, as one text without its middle."""
    half = most // 2
    shown = f"{text[:half]}\n[{len(text) - 2 * half:,} characters left out here]\n{text[-half:]}"
    return Turn(({**turn.messages[0], "content": shown}, {"role": "assistant", "content": ""}))


def _as_text(turn: Turn) -> str:
    """Everything that was said in a turn but the reasoning, one message after the other."""
    parts = []
    for message in turn.messages:
        parts.append(f"{message['role']}: {message.get('content') or ''}")
        for call in message.get("tool_calls") or ():
            function = call.get("function", {})
            parts.append(f"call of {function.get('name')}: {function.get('arguments')}")
    return "\n\n".join(parts)
