"""The options that say which model answers, how it runs, and how it is asked to answer."""

from collections.abc import Callable
from typing import Any

from cli.machine.expert_options import add_the_experts
from cli.option_values import whole, within
from dsv4_mlx.chat.loops import LOOPS
from dsv4_mlx.engine.draft_choice import DRAFT_CHOICES
from dsv4_mlx.engine.draft_history import MOST_DRAFTS
from dsv4_mlx.engine.sampling import RANGES
from dsv4_mlx.files.paths import user_path

LEVELS = ("none", "low", "high", "max")
EFFORT_TABLES = ("auto", "2026-04", "2026-07-31")
BACKENDS = ("auto", "metal", "cuda", "cpu")
KV_CHOICES = ("compact", "bf16")

_SAMPLING = (
    ("--temp", "temperature", "T", "0 is greedy"),
    ("--top-p", "top_p", "P", "share of the likeliest tokens to draw from"),
    ("--min-p", "min_p", "P", "only tokens so likely, the likeliest being 1"),
    ("--top-k", "top_k", "K", "only the K likeliest tokens; 0 is all"),
    ("--repetition-penalty", "repetition_penalty", "R", "above 1 avoids what was said"),
)

Add = Callable[..., Any]


def add_the_model(add: Add, say: Callable[[Add], Any] = lambda add: None) -> None:
    """What answers, and how; `say` adds what stands behind the model itself."""
    add("--model", type=user_path, metavar="PATH", help="checkpoint folder, official or converted")
    say(add)
    add("--system", metavar="TEXT", help="system message of the conversation")
    add("--think", choices=LEVELS, help="thinking level; the checkpoint has its default")
    add(
        "--effort-table",
        choices=EFFORT_TABLES,
        default="auto",
        help="meaning of the levels; auto reads it off the checkpoint",
    )
    add("--max-tokens", type=whole(1), metavar="N", help="longest reply, reasoning included")
    for option, name, metavar, meaning in _SAMPLING:
        add(option, dest=name, type=within(RANGES[name]), metavar=metavar, help=meaning)
    add("--seed", type=whole(0), metavar="N", help="makes sampling repeatable")
    add("--backend", choices=BACKENDS, help="where the model runs")
    add(
        "--kernels",
        metavar="LIST",
        help="leave kernels out, as metal,-index_topk: a slower reference runs instead",
    )
    add(
        "--kv",
        choices=KV_CHOICES,
        help="how the cache keeps entries; both hold the same values",
    )
    add(
        "--prefill-chunk",
        type=whole(1),
        metavar="N",
        help="prompt tokens read at a time; by memory 2048 or 512",
    )
    add(
        "--no-compile",
        dest="compile",
        action="store_false",
        help="on a GPU, build every token's graph anew instead of replaying one",
    )
    add_the_experts(add)
    add("--draft", choices=DRAFT_CHOICES, help="guesses tokens ahead; the reply is the same")
    add(
        "--draft-max",
        type=whole(1, MOST_DRAFTS),
        metavar="N",
        help=f"tokens guessed at a time, at most {MOST_DRAFTS}; 5, of lookup 7",
    )


def add_the_ends(add: Add) -> None:
    """What bounds an answer and ends it."""
    add("--budget", type=whole(0), metavar="N", help="reasoning tokens before it must answer")
    add(
        "--stop",
        action="append",
        metavar="TEXT",
        help="ends the answer where TEXT would come; may be given again",
    )
    add("--loop", choices=LOOPS, help="what happens when a reply says the same without end")


def add_the_script(add: Add) -> None:
    """A script in the place of a model."""
    add("--engine", metavar="fake:FILE", help="answers from a script instead of a model")
