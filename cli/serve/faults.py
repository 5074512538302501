"""What goes wrong with a request, in no dialect's words; each dialect has a body for every kind."""

from dataclasses import dataclass
from typing import Final, Literal

from dsv4_mlx.errors import Dsv4Error
from dsv4_mlx.serving.events import RefusalKind

FaultKind = Literal[
    "invalid",
    "too_long",
    "unknown_model",
    "not_kept",
    "unauthorized",
    "forbidden",
    "not_found",
    "wrong_method",
    "slow_body",
    "too_large",
    "wrong_type",
    "too_often",
    "crowded",
    "busy",
    "memory",
    "waited",
    "failed",
    "unavailable",
]
"""`invalid` as it was asked, `too_long` for the context; `unknown_model` by its name; `not_kept`
is the response to go on from; `unauthorized` without a key; `forbidden` from another site or
host; `not_found` at that path and `wrong_method` for it; `slow_body` that never came whole,
`too_large` or of a `wrong_type`; `too_often` by this client, `crowded` with connections, `busy`
with others; for more `memory` than there is, which no waiting cures; `waited` for too long;
`failed` inside; `unavailable` while the program ends, the model could not be loaded, or a rank
of it is lost."""

STATUSES: Final[dict[FaultKind, int]] = {
    "invalid": 400,
    "too_long": 400,
    "unknown_model": 404,
    "not_kept": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "wrong_method": 405,
    "slow_body": 408,
    "too_large": 413,
    "wrong_type": 415,
    "too_often": 429,
    "crowded": 503,
    "busy": 429,
    "memory": 400,
    "waited": 503,
    "failed": 500,
    "unavailable": 503,
}
"""The status of each kind where a dialect has no other."""

OF_REFUSALS: Final[dict[RefusalKind, FaultKind]] = {
    "too_long": "too_long",
    "memory": "memory",
    "busy": "busy",
    "waited": "waited",
    "invalid": "invalid",
    "failed": "failed",
    "unavailable": "unavailable",
}


@dataclass(frozen=True)
class Fault:
    """What went wrong: its kind, a sentence for people, and the field of the body that it is in."""

    kind: FaultKind
    sentence: str
    field: str | None = None


class RequestFault(Dsv4Error):
    """A request that is not served; `fault` says why."""

    def __init__(self, kind: FaultKind, sentence: str, field: str | None = None) -> None:
        super().__init__(sentence)
        self.fault = Fault(kind, sentence, field)
