"""OpenAI's responses as a dialect."""

from collections.abc import Mapping
from typing import Any

from cli.serve.dialect import Asked, DialectContext, ErrorBody
from cli.serve.faults import Fault
from cli.serve.reading import Body, flag, mapping
from cli.serve.responses_errors import error_body
from cli.serve.responses_kept import KeptResponse, KeptResponses
from cli.serve.responses_reply import ResponseForm, ResponseWriter
from cli.serve.responses_request import ResponseAsked, read_body
from cli.serve.sealing import Seals


class ResponsesDialect:
    """`POST /v1/responses`."""

    name = "responses"

    def __init__(self, seals: Seals, kept: KeptResponses) -> None:
        self._seals, self.kept = seals, kept

    def read(self, body: Body, context: DialectContext) -> Asked:
        """What `body` asks for; RequestFault with the field that is wrong."""
        asked = read_body(body, context, self._seals, self.kept)
        form = ResponseForm(
            _echo(body, asked, context),
            asked.tools,
            (lambda text: self._seals.seal(context.owner, text)) if asked.is_sealed else None,
            has_summary=_wants_summary(body),
            token_bytes=context.token_bytes,
            keep=self._keeper(body, asked, context.owner),
        )
        return Asked(asked.request, ResponseWriter(form), flag(body, "stream"), asked.left_out)

    def error(self, fault: Fault) -> ErrorBody:
        """The body of `fault`."""
        return error_body(fault)

    def _keeper(self, body: Body, asked: ResponseAsked, owner: str) -> Any:
        if not flag(body, "store", True):
            return lambda response: None
        return lambda response: self.kept.put(
            KeptResponse(owner, asked.previous, asked.items, response)
        )


def _wants_summary(body: Body) -> bool:
    reasoning = mapping(body, "reasoning")
    return any(reasoning.get(name) is not None for name in ("summary", "generate_summary"))


def _echo(body: Body, asked: ResponseAsked, context: DialectContext) -> Mapping[str, Any]:
    """What a response says of its request."""
    settings = asked.request.settings
    reasoning = mapping(body, "reasoning")
    return {
        "id": context.new_id("resp_"),
        "object": "response",
        "created_at": context.now(),
        "model": context.model,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": mapping(body, "metadata"),
        "parallel_tool_calls": asked.request.several_calls,
        "previous_response_id": asked.previous,
        "reasoning": {name: reasoning.get(name) for name in ("effort", "summary")},
        "store": flag(body, "store", True),
        "temperature": settings.sampling.temperature,
        "text": mapping(body, "text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_logprobs": asked.request.likeliest,
        "top_p": settings.sampling.top_p,
        "truncation": "disabled",
        "user": body.get("user"),
    }
