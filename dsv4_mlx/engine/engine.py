"""Running a model: `Engine` is the loaded model, `Session` one timeline of token ids.

>>> session = Engine(model).session()
>>> session.sync(prompt_ids)                      # reads what the timeline does not hold yet
>>> for token in session.stream(max_tokens=100):  # the timeline grows by every token yielded
...     print(token.id, token.logprob)

MLX ties lazy arrays to the thread that made them. One thread, called the model's thread below,
loads the model and makes every call that says so; the others may come from any thread.

| call | thread | gives | errors |
|---|---|---|---|
| `Engine(model)` | model's | an engine; reads nothing | UsageError: `prefill_chunk`, `compiled` |
| `Engine.session()` | model's | an empty `Session` | |
| `Engine.check(tokens)` | any | the ids of a prompt that can be answered | PromptError |
| `Engine.max_context`, `backend` | any | tokens; what the kernels run on | |
| `Engine.memory` | any | what stays resident for the model; `release()` on the model's | |
| `Session.sync(tokens)` | model's | `Sync`: tokens found and tokens read | PromptError |
| `Session.reading(tokens)` | model's | an iterator: `sync` chunk by chunk | PromptError |
| `Session.stream()` | model's | an iterator of `Token` | PromptError, UsageError |
| `Engine.round_rows` | any | streams whose tokens one call may start, `Session.joining` of each | |
| `Engine.start_together(lines)` | model's | whose next token failed; see `rounds` | |
| `Session.rewind(offset)` | model's | the offset it went back to | |
| `Session.hold()` | model's | a moment that `rewind` can return to | |
| `Session.snapshot()` | model's | a `SessionSnapshot` | PromptError |
| `Session.moment()` | model's | the same without reading anything | |
| `Session.restore(snapshot)` | model's | the timeline of `snapshot` | CacheError |
| `Session.fork()` | model's | a second `Session` from here on | |
| `Session.save(path, notes)` | model's | a file | CacheError, OSError |
| `Session.save_place(path, offset)` | model's | a file of the beginning | CacheError, OSError |
| `Session.load(path)` | model's | the notes of the file | CacheError |
| `Session.tokens`, `len`, `places`, `sizes()` | model's | what the session holds | |
| `cancel.set()` on a flag given to `sync` or `stream` | any | the call ends soon | |

Errors of the model itself, such as memory that ran out, pass through every call that computes, and
a kernel that the GPU refuses is a KernelError; the timeline is then as it was at its last complete
moment, and the next call reads what is missing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dsv4_mlx.device.row_finding import RowFinding
from dsv4_mlx.engine.rounds import Failed, start_together
from dsv4_mlx.engine.running import Running
from dsv4_mlx.engine.session import Session
from dsv4_mlx.engine.timeline import Timeline


class Engine(Running):
    """A loaded model that hands out sessions."""

    @property
    def backend(self) -> str | None:
        """What the model's kernels run on; None for a model that does not tell."""
        plan = getattr(self.model, "kernel_plan", None)
        return None if plan is None else str(plan()["backend"])

    @property
    def left_out(self) -> tuple[str, ...]:
        """Kernels that run by their slower references, as somebody asked."""
        return tuple(getattr(self.model, "left_out", ()))

    @property
    def pipeline(self) -> Mapping[str, Any] | None:
        """Of a model whose layers lie on two machines who has which; None of others."""
        found: Mapping[str, Any] | None = getattr(self.model, "pipeline", None)
        return found

    @property
    def row_finding(self) -> RowFinding | None:
        """What the load found of rows that keep their bits; None where it did not look."""
        return getattr(self.model, "row_finding", None)

    def start_together(self, timelines: Sequence[Timeline]) -> Failed:
        """Start the next token of several replies by one call; see `rounds.start_together`."""
        return start_together(self, timelines)

    def session(self) -> Session:
        """A new, empty timeline."""
        return Session(self)
