"""Anthropic's messages as a dialect, and their counting of tokens."""

from collections.abc import Mapping
from typing import Any

from cli.serve.dialect import Asked, DialectContext, ErrorBody
from cli.serve.faults import Fault
from cli.serve.messages_errors import error_body
from cli.serve.messages_reply import MessageWriter
from cli.serve.messages_request import left_out, read_body
from cli.serve.reading import Body, flag
from cli.serve.sealing import Seals
from dsv4_mlx.serving.request import GenerationRequest


class MessagesDialect:
    """`POST /v1/messages`."""

    name = "messages"

    def __init__(self, seals: Seals) -> None:
        self._seals = seals

    def read(self, body: Body, context: DialectContext) -> Asked:
        """What `body` asks for; RequestFault with the field that is wrong."""
        request = read_body(body, context, self._seals)
        thinking = body.get("thinking")
        is_hidden = isinstance(thinking, Mapping) and thinking.get("display") == "omitted"
        writer = MessageWriter(
            context.new_id("msg_"),
            context.model,
            self._seals,
            context.owner,
            shows_thinking=not is_hidden,
        )
        return Asked(request, writer, flag(body, "stream"), left_out(body))

    def error(self, fault: Fault) -> ErrorBody:
        """The body of `fault`."""
        return error_body(fault)


class MessagesCounter:
    """`POST /v1/messages/count_tokens`: the tokens of the prompt that the same messages make."""

    name = "count_tokens"

    def __init__(self, seals: Seals) -> None:
        self._seals = seals

    def read(self, body: Body, context: DialectContext) -> GenerationRequest:
        """What `body` asks to count; RequestFault with the field that is wrong."""
        return read_body(body, context, self._seals)

    def counted(self, tokens: int) -> Mapping[str, Any]:
        """The body that says so."""
        return {"input_tokens": tokens}

    def error(self, fault: Fault) -> ErrorBody:
        """The body of `fault`."""
        return error_body(fault)
