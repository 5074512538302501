"""The model's side of conversations on a server, as the terminal uses it.

The turns are kept here, so that they outlive the server; it finds what it has read of them by
itself. What it does on its side of a place, such as to go back to it, needs no call.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event as Flag

from cli.remote.chat_body import chat_body, counting_body
from cli.remote.client import NotOffered, ServerClient
from cli.remote.streamed_reply import StreamedReply
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.events import Event
from dsv4_mlx.chat.model_side import AnswerRequest, ContextUse
from dsv4_mlx.chat.settings import ChatSettings
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.errors import UsageError

_CHAT = "/v1/chat/completions"
_COUNT = "/v1/messages/count_tokens"


class RemoteSide:
    """One conversation's; see `dsv4_mlx.chat.model_side.ModelSide` for the names."""

    def __init__(
        self, client: ServerClient, model: str, checkpoint: ChatSettings, turns: Sequence[Turn]
    ) -> None:
        self.turns = tuple(turn.without_tokens() for turn in turns)
        self.use = ContextUse(0, checkpoint.context)
        self._client, self._model, self._checkpoint = client, model, checkpoint
        self._answers = len(self.turns)  # ever begun: each draws with a seed of its own

    def answer(
        self,
        request: AnswerRequest,
        settings: AnswerSettings,
        cancelled: Flag,
        emit: Callable[[Event], None],
    ) -> None:
        """Have the server answer; ServerError, and the turns as before, where it does not."""
        seed = settings.sampling.seed
        seed = None if seed is None else seed + self._answers
        self._answers += 1
        body = chat_body(self._model, request.turns, settings, self._checkpoint, seed)
        reply = StreamedReply(emit, request.asked_at)
        for part in self._client.stream(_CHAT, body, cancelled):
            reply.take(part)
        done = reply.done(cancelled=cancelled.is_set())
        self.turns = (*request.kept, request.turn.answered(reply.message, (), ()))
        if (used := reply.usage) is not None:
            self.use = replace(self.use, used=used.prompt_tokens + used.completion_tokens)
        emit(done)

    def undo(self, settings: AnswerSettings) -> str:
        """Forget the last turn; what was asked in it."""
        *kept, last = self.turns
        self.turns = tuple(kept)
        return last.text

    def fork(self) -> "RemoteSide":
        """A second one that goes on independently."""
        other = RemoteSide(self._client, self._model, self._checkpoint, self.turns)
        other.use, other._answers = self.use, self._answers
        return other

    def clear(self) -> None:
        """Forget the turns."""
        self.turns, self._answers = (), 0
        self.use = replace(self.use, used=0)

    def prompt_tokens(self, turns: Sequence[Turn], text: str, settings: AnswerSettings) -> int:
        """Tokens of the prompt that asks `text` after `turns`, as the server counts them."""
        asked = counting_body(self._model, [*turns, Turn.asking(text)], settings)
        try:
            counted = self._client.post(_COUNT, asked)
        except NotOffered as error:
            raise UsageError("This server counts no tokens, which that needs.") from error
        return int(counted["input_tokens"])

    def save(self, path: str | Path) -> None:
        """What was read is the server's, which keeps it."""

    def load(self, path: str | Path) -> None:
        """As `save`: nothing that a file here holds is of use to the server."""
