"""Seconds that going back in a long conversation takes, and the tokens that it reads.

    python -m benchmarks.rewind [--model PATH] [--context N] [--rounds N]

Three turns fill the context; then the last is undone and the one before is answered again, until
the first piece of the answer. Further a fork, and a save, a load and an answer after it. Medians of
a conversation in chat mode and of one that thinks; the rows go to results/rewind.csv. The CPU's
seconds tell the work where other programs share the machine.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import dsv4_mlx
from benchmarks.record import record
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.conversation import Conversation
from dsv4_mlx.chat.events import Event, Progress
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.loading import load

Result = TypeVar("Result")
FIELDS = (
    "model", "mode", "context", "undo", "retry to first token", "of it CPU", "tokens read", "fork",
    "save", "file MB", "load", "resumed to first token",
)  # fmt: skip
MODES = (Thinking("chat"), Thinking("thinking", "high"))
ANSWER_TOKENS = 24
SENTENCE = "The quick brown fox jumps over the lazy dog. "


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds of `work`, and what it returned."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def first_token(events: Iterator[Event]) -> tuple[float, float, int]:
    """Seconds until the first piece of an answer, those of the CPU, and tokens read before it."""
    start, busy, read = time.perf_counter(), time.process_time(), 0
    seconds: tuple[float, float] | None = None
    for event in events:
        if isinstance(event, Progress):
            read = event.done
        elif seconds is None:
            seconds = time.perf_counter() - start, time.process_time() - busy
    assert seconds is not None
    return *seconds, read


def filled(conversation: Conversation, context: int) -> None:
    """Three turns, of which the first takes nearly all of `context`."""
    per_sentence = conversation.count(SENTENCE * 100) / 100
    spare = 3 * ANSWER_TOKENS + 100
    list(conversation.send(SENTENCE * int((context - spare) / per_sentence)))
    list(conversation.send("What does the fox do?"))
    list(conversation.send("And the dog?"))


def measure(conversation: Conversation, rounds: int, path: Path) -> dict[str, float]:
    """Medians by column."""
    rows = []
    for _ in range(rounds):
        row: dict[str, float] = {}
        row["undo"], _ = timed(conversation.undo)
        seconds, busy, read = first_token(conversation.retry())
        row |= {"retry to first token": seconds, "of it CPU": busy, "tokens read": read}
        row["fork"], _ = timed(conversation.fork)
        list(conversation.send("And the dog?"))
        row["save"], _ = timed(lambda: conversation.save_cache(path))
        row["file MB"] = path.stat().st_size / 1e6
        resumed = conversation.fork()
        row["load"], _ = timed(lambda other=resumed: other.load_cache(path))  # type: ignore[misc]
        seconds, *_ = first_token(resumed.send("Who is lazy?"))
        row["resumed to first token"] = row["load"] + seconds
        rows.append(row)
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", metavar="PATH", type=Path, help="default: the embedded model")
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    folder = options.model or Path(dsv4_mlx.__file__).parent / "nano"
    command = f"python -m benchmarks.rewind --context {options.context} --rounds {options.rounds}"
    # One thread owns the model, as in the chat program.
    with ThreadPoolExecutor(1) as worker, tempfile.TemporaryDirectory() as scratch:
        model, tokenizer = worker.submit(load, folder).result()
        for thinking in MODES:
            conversation = Conversation(
                Engine(model),
                tokenizer,
                AnswerSettings(
                    thinking, sampling=Sampling(temperature=0.0), max_tokens=ANSWER_TOKENS
                ),
                submit=worker.submit,
            )
            filled(conversation, options.context)
            row = measure(conversation, options.rounds, Path(scratch) / "cache")
            print(thinking.mode, {name: round(value, 4) for name, value in row.items()}, flush=True)
            shown = {name: f"{value:.4g}" for name, value in row.items()}
            about = {"model": folder.name, "mode": thinking.mode}
            used = {"context": conversation.context().used}
            record("rewind", command, [about | used | shown], FIELDS)


if __name__ == "__main__":
    main()
