"""Which drafter a person asks for, as words, and what each needs; no mlx."""

from typing import Final, Literal, get_args

from dsv4_mlx.engine.draft_history import MOST_DRAFTS
from dsv4_mlx.errors import UsageError

DraftChoice = Literal["auto", "off", "mtp", "dspark", "lookup"]
DRAFT_CHOICES: Final[tuple[DraftChoice, ...]] = get_args(DraftChoice)
MOST_BY_DEFAULT: Final = {"lookup": MOST_DRAFTS}
"""Drafts of a pass where nobody says how many; 5 of a drafter that has weights."""
DRAFTS: Final = 5

ELSEWHERE: Final = (
    "expected all weights in this machine's memory for drafts but found experts that are streamed "
    "or layers that are piped, where drafts only cost; take auto or off."
)


def most_drafts(kind: str, asked: int | None) -> int:
    """Drafts of a pass; UsageError outside 1 to 7."""
    if asked is None:
        return MOST_BY_DEFAULT.get(kind, DRAFTS)
    if not 1 <= asked <= MOST_DRAFTS:
        raise UsageError(f"expected 1 to {MOST_DRAFTS} drafts of a pass but found {asked}.")
    return asked


def why_not(
    has: str | None, may_have: str | None, backend: str | None, exact_rows: int, found: str = ""
) -> str:
    """Why `auto` drafts nothing; "" where it may.

    The model has loaded drafts of the kind `has`, and its configuration describes `may_have`.
    `found` is why rows of a pass were found not to be exact.
    """
    if has is None and may_have == "dspark":
        return "DSpark's stages are not loaded; --draft dspark at the start loads those there are"
    if has is None:
        return "the model has no draft weights"
    if backend == "cpu":
        return "on a CPU a block of tokens costs what they cost one by one"
    if exact_rows < 2:
        return found or "no kernel here reads several rows with the bits that single rows have"
    return ""


def refusal(kind: str, there_is: str | None) -> str:
    """Why drafts of `kind` are not to be had from a model that has `there_is`."""
    has = "no draft weights" if there_is is None else f"drafts of the kind {there_is}"
    if kind == "dspark":
        has += ", or none were loaded (--draft dspark at the start loads those of V4-Flash-0731)"
    return f"expected a model with {kind} drafts but this one has {has}; take auto, lookup or off."
