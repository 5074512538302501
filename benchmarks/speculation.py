"""What drafts give: the same replies with them and without, in turn, and the bytes of both.

    python -m benchmarks.speculation [--model PATH] [--draft KIND] [--draft-max N] [--auto]
        [--prompts code,prose,tool,thinking] [--tokens N] [--temperature T] [--rounds N]

Each prompt is read once; every reply begins there, has N tokens (an end of the reply ends nothing)
and is given without drafts, with, with, without. Replies that differ end the run. Medians go to
results/speculation.csv. Bytes are weights, counted from the config: what every row multiplies is
read once a pass, and no two rows share an expert. On a CPU rows are read one by one whatever
drafts say, so its seconds are no claim; run it on a GPU.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

import dsv4_mlx
from benchmarks.record import device, record
from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.chat.encoding import encode_messages
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.engine.draft_choice import DRAFT_CHOICES, DraftChoice
from dsv4_mlx.engine.draft_history import DraftUse
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.generation import Token
from dsv4_mlx.engine.session import Session
from dsv4_mlx.errors import Dsv4Error, UsageError
from dsv4_mlx.loading import RowTest, load_model
from dsv4_mlx.sizing.costs import Costs
from dsv4_mlx.weights.checkpoint import open_checkpoint

FIELDS = (
    "model", "device", "prompt", "draft", "draft_max", "tokens", "temperature", "without_s",
    "with_s", "without_cpu_s", "with_cpu_s", "passes", "drafted", "accepted", "tokens_per_pass",
    "bytes_per_token_without", "bytes_per_token_with",
)  # fmt: skip
_CODE = """def mean(values):
    total = 0
    for value in values:
        total = total + value
    return total / len(values)
"""
_WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string"}},
        "required": ["city"],
    },
}
_TOOLS = [{"type": "function", "function": _WEATHER}]
PROMPTS: dict[str, tuple[ThinkingMode, list[dict[str, Any]]]] = {
    "code": ("chat", [{"role": "user", "content": "Rename total to sum_of_values, say each line "
                       f"twice and add a docstring and tests:\n\n{_CODE}"}]),
    "prose": ("chat", [{"role": "user", "content": "Write a long story about a lighthouse keeper "
                        "who finds a letter from the sea."}]),
    "tool": ("chat", [
        {"role": "system", "content": "Call tools where they help.", "tools": _TOOLS},
        {"role": "user", "content": "What is the weather in each capital of the European Union?"},
    ]),
    "thinking": ("thinking", [{"role": "user", "content": "How many primes lie between 100 and "
                               "200? Check each number."}]),
}  # fmt: skip


@dataclass(frozen=True)
class Timed:
    """One reply: its tokens, its seconds by the wall and of the CPU, and what drafts did."""

    tokens: list[Token]
    seconds: float
    cpu_seconds: float
    use: DraftUse | None


class Compared:
    """One model with drafts of one kind and without."""

    def __init__(self, engine: Engine, kind: DraftChoice, most: int | None, auto: bool) -> None:
        """UsageError for a kind that the model has not."""
        self._engine = engine
        engine.drafting.use(kind, most)
        self.drafts = engine.drafting.drafts
        if self.drafts is None:
            raise UsageError(
                f"expected something that drafts but --draft {kind} is nothing here; "
                "take mtp, dspark or lookup."
            )
        self._most, self._demanded = most, not auto

    def replies(self, prompt: Sequence[int], rounds: int, **options: Any) -> Iterator[Timed]:
        """Without, with, with, without, as often as there are rounds; `options` of `stream`."""
        self._draft(True)
        trunk = self._engine.session()
        trunk.sync(prompt)
        for drafts in (False, True, True, False) * rounds:
            self._draft(drafts)
            yield self._reply(trunk.fork(), **options)

    def _draft(self, drafts: bool) -> None:
        self._engine.drafting.draft_with(
            self.drafts if drafts else None, self._most, self._demanded
        )

    def _reply(self, session: Session, **options: Any) -> Timed:
        start, busy = time.perf_counter(), time.process_time()
        tokens = list(session.stream(stop_ids=(), **options))
        seconds, cpu = time.perf_counter() - start, time.process_time() - busy
        return Timed(tokens, seconds, cpu, session.draft_use)


def checked(found: Sequence[Timed], prompt: str) -> None:
    """AssertionError unless every reply has the tokens and log-probabilities of the first."""
    for number, one in enumerate(found):
        for place, (token, other) in enumerate(zip(one.tokens, found[0].tokens, strict=True)):
            if token != other:
                raise AssertionError(
                    f"expected every reply to {prompt} to be the first one but found {token} for "
                    f"{other} at token {place} of reply {number}; drafts changed a reply, which "
                    "is a fault of the program."
                )


def pass_bytes(costs: Costs, use: DraftUse, kind: str, *, packed_head: bool = False) -> int:
    """Weight bytes of a reply with drafts, whose passes are taken to be equally long."""
    drafts = use.drafted / use.passes
    low, part = int(drafts), drafts % 1
    of_pass = [
        costs.bytes_of_rows(1 + n) + costs.bytes_of_drafts(kind, n, packed_head=packed_head)
        for n in (low, low + 1)
    ]
    return int(use.passes * (of_pass[0] * (1 - part) + of_pass[1] * part))


def row(
    found: Sequence[Timed], costs: Costs, kind: str, *, packed_head: bool = False
) -> dict[str, Any]:
    """Medians and counts of replies that are one; those with drafts are the second and third."""
    without = [one for one in found if one.use is None]
    drafted = [one for one in found if one.use is not None]
    use, tokens = drafted[0].use, len(found[0].tokens)
    assert use is not None

    def median(chosen: Sequence[Timed], name: str) -> str:
        return f"{statistics.median(getattr(one, name) for one in chosen):.4g}"

    return {
        "tokens": tokens,
        "without_s": median(without, "seconds"),
        "with_s": median(drafted, "seconds"),
        "without_cpu_s": median(without, "cpu_seconds"),
        "with_cpu_s": median(drafted, "cpu_seconds"),
        "passes": use.passes,
        "drafted": use.drafted,
        "accepted": use.accepted,
        "tokens_per_pass": f"{tokens / use.passes:.3f}",
        "bytes_per_token_without": costs.bytes_per_token(),
        "bytes_per_token_with": pass_bytes(costs, use, kind, packed_head=packed_head) // tokens,
    }


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", metavar="PATH", type=Path, help="default: the embedded model")
    parser.add_argument("--backend", default="auto", help="what runs it, as the chat takes it")
    kinds = [kind for kind in DRAFT_CHOICES if kind not in ("auto", "off")]
    parser.add_argument("--draft", choices=kinds, default="mtp")
    parser.add_argument("--draft-max", type=int, metavar="N", help="drafts of a pass, 1 to 7")
    parser.add_argument("--auto", action="store_true", help="draft only where that pays")
    parser.add_argument("--prompts", default=",".join(PROMPTS), help=f"out of {', '.join(PROMPTS)}")
    parser.add_argument("--tokens", type=int, default=500, metavar="N", help="of each reply")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=1, help="of four replies")
    return parser.parse_args(arguments)


def measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each prompt."""
    folder = options.model or Path(dsv4_mlx.__file__).parent / "nano"
    rows = RowTest(without_weights=True)
    model = load_model(open_checkpoint(folder), backend=options.backend, drafts=True, rows=rows)
    tokenizer = Tokenizer(folder)
    engine = Engine(model)
    compared = Compared(engine, options.draft, options.draft_max, options.auto)
    about = {"model": folder.name, "device": device(), "draft": options.draft}
    about |= {"draft_max": options.draft_max or "", "temperature": options.temperature}
    for name in options.prompts.split(","):
        mode, messages = PROMPTS[name]
        prompt = tokenizer.encode(encode_messages(messages, thinking_mode=mode))
        found = list(
            compared.replies(
                prompt,
                options.rounds,
                max_tokens=options.tokens,
                temperature=options.temperature,
                seed=0,
            )
        )
        checked(found, name)
        costs, packed_head = Costs(model.config), model.draft_head is not None
        one = row(found, costs, options.draft, packed_head=packed_head)
        yield about | {"prompt": name} | one


def line(one: dict[str, Any]) -> str:
    """A row for readers."""
    return (
        f"{one['prompt']}: {one['tokens']} tokens in {one['passes']} passes, "
        f"{one['accepted']} of {one['drafted']} drafts right, {one['tokens_per_pass']} a pass; "
        f"{one['without_s']} s without and {one['with_s']} s with (CPU {one['without_cpu_s']} and "
        f"{one['with_cpu_s']}); {one['bytes_per_token_without']:,} bytes of weights a token "
        f"without and {one['bytes_per_token_with']:,} with"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    if unknown := set(options.prompts.split(",")) - PROMPTS.keys():
        print(f"expected prompts out of {', '.join(PROMPTS)} but found {', '.join(unknown)}.")
        return 2
    command = " ".join(["python -m benchmarks.speculation", *(arguments or sys.argv[1:])])
    try:
        for one in measured(options):
            print(line(one), flush=True)
            record("speculation", command, [one], FIELDS)
    except Dsv4Error as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if mx.default_device() == mx.cpu:
        print("These seconds are a CPU's, which reads rows one by one: no claim about drafts.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
