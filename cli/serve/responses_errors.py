"""Errors of responses as OpenAI's interface has them.

Programs go by the code: they make room, ask again later, or stop asking. A prompt that memory never
holds is one that is too long.
"""

from collections.abc import Mapping
from typing import Final

from cli.serve.dialect import ErrorBody
from cli.serve.faults import STATUSES, Fault, FaultKind

_CODES: Final[Mapping[FaultKind, str]] = {
    "invalid": "invalid_prompt",
    "too_long": "context_length_exceeded",
    "memory": "context_length_exceeded",
    "unknown_model": "model_not_found",
    "not_kept": "previous_response_not_found",
    "unauthorized": "invalid_api_key",
    "crowded": "rate_limit_exceeded",
    "busy": "rate_limit_exceeded",
    "waited": "rate_limit_exceeded",
    "too_often": "rate_limit_exceeded",
}
_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


def code_of(fault: Fault) -> str:
    """The code of a response that failed."""
    return _CODES.get(fault.kind, "server_error")


def error_body(fault: Fault) -> ErrorBody:
    """The body of `fault` in the place of a response."""
    status = STATUSES[fault.kind]
    error = {
        "message": fault.sentence,
        "type": _TYPES.get(status, "invalid_request_error"),
        "param": fault.field,
        "code": _CODES.get(fault.kind),
    }
    return ErrorBody(status, {"error": error})
