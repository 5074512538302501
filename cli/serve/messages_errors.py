"""Errors as Anthropic's interface has them.

Its clients make room by themselves where a message begins with "prompt is too long", and ask again
later where a status is 429 or 529. A prompt that memory never holds is one that is too long.
"""

from collections.abc import Mapping
from typing import Final

from cli.serve.dialect import ErrorBody
from cli.serve.faults import STATUSES, Fault, FaultKind

_OVERLOADED: Final = 529
_STATUSES: Final[Mapping[FaultKind, int]] = {
    "crowded": _OVERLOADED,
    "busy": _OVERLOADED,
    "waited": _OVERLOADED,
    "unavailable": _OVERLOADED,
}
_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    _OVERLOADED: "overloaded_error",
}


def error_body(fault: Fault) -> ErrorBody:
    """The body of `fault`."""
    status = _STATUSES.get(fault.kind, STATUSES[fault.kind])
    begins = "prompt is too long: " if fault.kind in ("too_long", "memory") else ""
    kind = _TYPES.get(status, "invalid_request_error")
    error = {"type": kind, "message": f"{begins}{fault.sentence}"}
    return ErrorBody(status, {"type": "error", "error": error})
