"""Turns to the token ids of a prompt; each finished reply stays the tokens it was generated as."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.effort import EffortTable
from dsv4_mlx.chat.encoding import Prompt, Segment, encode_messages
from dsv4_mlx.chat.tokens import ASSISTANT, END_THINK, REQUIRED, THINK, USER
from dsv4_mlx.chat.turns import TokenIds, Turn

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer

Run = tuple[Segment, ...]


@dataclass(frozen=True)
class PromptTokens:
    """What the model is asked. `boundaries` are the offsets at which user turns begin.

    `question_end` is where the last of them ends: what follows makes the model answer.
    """

    tokens: list[int]
    boundaries: list[int]
    question_end: int


class PromptWriter:
    """Writes prompts for one tokenizer; text that was in the last prompt is not encoded again.

    Any threads may write at once: then the prompt that is done last is the last one.
    """

    def __init__(self, tokenizer: "Tokenizer", effort_table: EffortTable) -> None:
        self._tokenizer = tokenizer
        self._effort_table = effort_table
        self._known: dict[Run, list[int]] = {}  # replaced, never changed

    def fork(self) -> "PromptWriter":
        """Another one that knows the same text."""
        other = PromptWriter(self._tokenizer, self._effort_table)
        other._known = self._known
        return other

    def write(self, turns: Sequence[Turn], settings: AnswerSettings) -> PromptTokens:
        """The prompt that asks for an answer to the last of `turns`. ChatError if there is none."""
        prompt = encode_messages(
            [*settings.system_messages(), *(m for turn in turns for m in turn.messages)],
            thinking_mode=settings.effective_thinking.mode,
            reasoning_effort=settings.effective_thinking.effort,
            effort_table=self._effort_table,
        )
        return self.tokens(prompt, [reply for turn in turns for reply in turn.said()])

    def tokens(self, prompt: Prompt, said: Sequence[tuple[TokenIds, TokenIds]]) -> PromptTokens:
        """Token ids of `prompt`, whose n-th reply has the thought and the answer `said[n]`."""
        known, used = self._known, dict[Run, list[int]]()

        def encoded(run: Run) -> list[int]:
            ids = known.get(run)
            used[run] = self._tokenizer.encode(Prompt(list(run))) if ids is None else ids
            return used[run]

        tokens: list[int] = []
        boundaries, question_end = [], 0
        replies = iter(said)
        thought: TokenIds = ()
        answer: TokenIds = ()
        stand_in: TokenIds = ()  # generated tokens in the place of the text to come
        for run in _runs(prompt):
            if run[0] not in _FRAME:
                tokens += [] if stand_in else encoded(run)
                continue
            if run[0].text == USER:
                boundaries.append(len(tokens))
            elif run[0].text == ASSISTANT:
                question_end = len(tokens)
                thought, answer = next(replies, ((), ()))
            stand_in = {THINK: thought, END_THINK: answer}.get(run[0].text, ())
            tokens += [*encoded(run), *stand_in]
        self._known = used
        return PromptTokens(tokens, boundaries, question_end)


_FRAME = frozenset(Segment(token, True) for token in REQUIRED)
"""Tokens that every tokenizer has; others may be text, which is encoded with its neighbours."""


def _runs(prompt: Prompt) -> Iterator[Run]:
    """The segments of `prompt` with each token of the frame for itself."""
    run: list[Segment] = []
    for segment in prompt.segments:
        if segment not in _FRAME:
            run.append(segment)
            continue
        if run:
            yield tuple(run)
        yield (segment,)
        run = []
    if run:
        yield tuple(run)
