"""What takes the tokens of an answer: a reply, or a raw one to a text without a template, all of
which is text and nothing in it markup."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dsv4_mlx.chat.budget import ReasoningBudget
from dsv4_mlx.chat.events import Event, FinishReason, TextDelta
from dsv4_mlx.chat.reply import FinishedReply, Reply
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.chat.stops import StopTexts
from dsv4_mlx.engine.draft_history import Regime
from dsv4_mlx.serving.events import ServedEvent
from dsv4_mlx.serving.request import GenerationRequest

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.engine.generation import Token


class RawReply:
    """Takes the tokens of one reply, as `chat.reply.Reply` does."""

    reasoning_tokens = 0

    def __init__(
        self, tokenizer: "Tokenizer", emit: Callable[[Event], None], stop: Sequence[str] = ()
    ) -> None:
        self.generated = 0
        self._emit, self._stops = emit, StopTexts(stop)
        self._detokenizer = tokenizer.detokenizer()
        self._tokens: list[int] = []
        self._kept = 0  # tokens all of whose text was given
        self._finish: FinishReason = "cancelled"

    def take(self, token: "Token", hold: Callable[[], None] | None = None) -> bool:
        """Take one token; whether the reply ends with it. `hold` is called where what was generated
        may have to be returned to."""
        self.generated += 1
        self._finish = token.finish or self._finish
        if token.finish != "stop":
            self._tokens.append(token.id)
            self._say(self._stops.add(self._detokenizer.add(token.id)))
        if self._stops.met is not None:
            self._finish = "stop_text"
            return True
        if not self._stops.holds:
            self._kept = len(self._tokens)
            if hold is not None and self._stops:
                hold()
        return token.finish is not None

    def steer(self) -> int | None:
        """Nothing is decided for the model."""
        return None

    def regime(self) -> Regime:
        """What the next token belongs to."""
        return "answer"

    def close(self) -> FinishedReply:
        """The whole reply, and why it ended."""
        if self._stops.met is None:
            self._say(self._stops.add(self._detokenizer.finish()))
            self._say(self._stops.finish())
            self._kept = len(self._tokens)
        kept = tuple(self._tokens[: self._kept])
        return FinishedReply({}, (), kept, self._finish, self._kept, self._stops.met)

    def _say(self, text: str) -> None:
        if text:
            self._emit(TextDelta(text))


def reply_to(
    request: GenerationRequest,
    goes_on: bool,
    tokenizer: "Tokenizer",
    emit: Callable[[ServedEvent], None],
    call_id: Callable[[], str],
) -> Reply | RawReply:
    """What takes the tokens of an answer to `request` and gives its events; an answer that the
    prompt ends in goes on without reasoning."""
    settings = request.settings
    if request.text is not None:
        return RawReply(tokenizer, emit, settings.stop)
    return Reply(
        tokenizer,
        Thinking("chat") if goes_on else settings.effective_thinking,
        emit,
        budget=ReasoningBudget(settings.budget),
        tools=settings.tools,
        stop=settings.stop,
        loops=settings.loops,
        call_id=call_id,
        on_call_part=emit,
    )
