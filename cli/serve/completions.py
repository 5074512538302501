"""The dialect of `POST /v1/completions`: a text that is gone on with, without a template."""

from codecs import IncrementalDecoder, getincrementaldecoder
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cli.serve.chat_request import ChatOptions, check_unoffered, stream_options
from cli.serve.chunks import FINISHES, ChunkWriter, chunk_frame, error_of
from cli.serve.dialect import Asked, DialectContext, ErrorBody, Frame
from cli.serve.faults import STATUSES, Fault, RequestFault
from cli.serve.reading import (
    Body,
    check_model,
    flag,
    invalid,
    most_tokens,
    sampling_of,
    texts,
    whole,
)
from cli.serve.shifts import shifts_of
from dsv4_mlx.chat.events import Done, TextDelta
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.serving.events import ServedEvent, TokenLikelihood
from dsv4_mlx.serving.request import GenerationRequest

MOST_TOKENS: Final = 16
"""Tokens of a text where neither the request nor the server says how many, as everywhere."""
_MOST_ANSWERS: Final = 32
_MOST_LIKELIEST: Final = 5


class CompletionsDialect:
    """See the module."""

    name = "completions"

    def read(self, body: Body, context: DialectContext) -> Asked:
        """What `body` asks for."""
        request = _request(body, context)
        options = replace(stream_options(body), likelihoods=request.wants_likelihoods)
        writer = CompletionWriter(context, options, request.answers)
        return Asked(request, writer, options.streams)

    def error(self, fault: Fault) -> ErrorBody:
        """The error for `fault`."""
        return ErrorBody(STATUSES[fault.kind], error_of(fault))


def _request(body: Body, context: DialectContext) -> GenerationRequest:
    check_model(body, context)
    check_unoffered(body)
    if flag(body, "echo"):
        raise RequestFault("invalid", "echo is not offered: the prompt is not said again.", "echo")
    if body.get("suffix"):
        raise RequestFault(
            "invalid", "suffix is not offered: a text is gone on with at its end alone.", "suffix"
        )
    answers = whole(body, "n", 1, _MOST_ANSWERS) or 1
    best_of = whole(body, "best_of", 1)
    if best_of is not None and best_of != answers:
        raise RequestFault("invalid", "best_of is not offered; n gives several texts.", "best_of")
    likelihoods = whole(body, "logprobs", 0, _MOST_LIKELIEST)
    defaults = context.defaults
    unasked = MOST_TOKENS if body.get("max_tokens") is None else None
    settings = replace(
        defaults,
        thinking=Thinking("chat"),
        system=None,
        tools=(),
        sampling=sampling_of(body, defaults.sampling),
        max_tokens=most_tokens(body, "max_tokens") or defaults.max_tokens or unasked,
        stop=texts(body, "stop") or defaults.stop,
    )
    return GenerationRequest(
        (),
        settings,
        answers=answers,
        owner=context.owner,
        text=_prompt(body),
        wants_likelihoods=likelihoods is not None,
        likeliest=likelihoods or 0,
        shifts=shifts_of(body),
    )


def _prompt(body: Body) -> str:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise invalid("prompt", "one text that is not empty", prompt)
    return prompt


_DECODER: Final = getincrementaldecoder("utf-8")
_Placed = tuple[TokenLikelihood, int]
"""A token, and how many characters of the text stand before it; one that begins inside a character
stands where that does."""


@dataclass
class _WrittenText:
    """One text as far as it is written."""

    pieces: list[str] = field(default_factory=list)
    likelihoods: list[_Placed] = field(default_factory=list)
    told: int = 0
    """Of these, the ones that a chunk told of."""
    finish: str | None = None
    _characters: int = 0
    _decoder: IncrementalDecoder = field(default_factory=lambda: _DECODER("replace"))

    def add(self, token: TokenLikelihood, spelled: bytes) -> None:
        """A token with its bytes came, whose text comes now or later."""
        self.likelihoods.append((token, self._characters))
        self._characters += len(self._decoder.decode(spelled))


class CompletionWriter(ChunkWriter):
    """Writes the texts of one request."""

    def __init__(self, context: DialectContext, options: ChatOptions, answers: int) -> None:
        super().__init__(options)
        self._token_bytes = context.token_bytes
        self._head = {
            "id": context.new_id("cmpl-"),
            "object": "text_completion",
            "created": context.now(),
            "model": context.model,
        }
        self._texts = [_WrittenText() for _ in range(answers)]

    def begin(self) -> Sequence[Frame]:
        """Nothing: a text begins with its first piece."""
        return []

    def event(self, answer: int, event: ServedEvent) -> Sequence[Frame]:
        """The chunks for an event."""
        written = self._texts[answer]
        match event:
            case TokenLikelihood():
                written.add(event, self._token_bytes(event.token))
            case TextDelta(text):
                written.pieces.append(text)
                return [self._chunk(answer, text)]
            case Done():
                self._done[answer] = event
                written.finish = FINISHES[event.finish_reason]
                del written.likelihoods[written.told :]  # the end of the text is no text
                return [self._chunk(answer, "", written.finish)]
        return []

    def used_chunk(self) -> Mapping[str, Any]:
        """A chunk of no text."""
        return {**self._head, "choices": [], **self.used()}

    def whole(self) -> Mapping[str, Any]:
        """All texts as one body."""
        choices = [
            self._choice(number, "".join(written.pieces), written.likelihoods, written.finish)
            for number, written in enumerate(self._texts)
        ]
        return {**self._head, "choices": choices, **self.used()}

    def _chunk(self, answer: int, text: str, finish: str | None = None) -> Frame:
        written = self._texts[answer]
        latest = written.likelihoods[written.told :]
        written.told = len(written.likelihoods)
        if self._options.streams:  # what is told is of no more use
            written.likelihoods, written.told = [], 0
        choice = self._choice(answer, text, latest, finish)
        return chunk_frame({**self._head, "choices": [choice]})

    def _choice(
        self, answer: int, text: str, told: Sequence[_Placed], finish: str | None
    ) -> dict[str, Any]:
        return {
            "index": answer,
            "text": text,
            "logprobs": self._logprobs(told) if self._options.likelihoods else None,
            "finish_reason": finish,
        }

    def _logprobs(self, told: Sequence[_Placed]) -> dict[str, Any]:
        logprobs: dict[str, Any] = {
            "tokens": [self._spelled(one.token) for one, _ in told],
            "token_logprobs": [one.logprob for one, _ in told],
            "text_offset": [offset for _, offset in told],
        }
        if any(one.likeliest for one, _ in told):
            logprobs["top_logprobs"] = [self._likeliest(one) for one, _ in told]
        return logprobs

    def _likeliest(self, told: TokenLikelihood) -> dict[str, float]:
        """The likeliest tokens and the one that was drawn, which may be one more."""
        both = (*told.likeliest, (told.token, told.logprob))
        return {self._spelled(token): logprob for token, logprob in both}

    def _spelled(self, token: int) -> str:
        """The text of a token; of a part of a character its bytes, so that no two are the same."""
        spelled = self._token_bytes(token)
        try:
            return spelled.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)
