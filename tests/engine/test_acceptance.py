"""How often the shipped model's MTP block is right: as often as on the finished text.

A reply is decoded with one draft a pass. Afterwards the block reads all of it in one call, and what
it then says of each place where something was drafted is the draft.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.chat.encoding import encode_messages
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.model.mtp_drafts import MtpDrafter, MtpDrafts
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.training.data.help import held_out, written_facts
from tests.engine.small_models import load_with_drafts
from tests.model.running import NANO

NEAR = 0.05
"""Logits that lie nearer may change places with the order of sums."""


class Noting(MtpDrafter):
    """An MTP drafter that notes what it read and what it drafted for which place of the text."""

    def reset(self, tokens: Sequence[int] = ()) -> None:
        self.streams: list[mx.array] = []
        self.drafted: dict[int, int] = {}
        self.read = 0
        super().reset(tokens)

    def absorb(self, tokens: Sequence[int], features: mx.array) -> None:
        self.streams.append(features)
        self.read += len(tokens)
        super().absorb(tokens, features)

    def draft(self, anchor: int, count: int, draws: Sequence[object] = ()) -> mx.array:
        ids = super().draft(anchor, count)
        self.drafted[self.read + 1] = int(ids[0].item())  # type: ignore[arg-type]
        return ids


class NotingDrafts(MtpDrafts):
    def new_drafter(self) -> Noting:
        self.last = Noting(self.model)
        return self.last


@dataclass
class Found:
    """Tokens of replies, drafts and how many were right, and places where logits were too near."""

    tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    near: int = 0
    texts: list[list[int]] = field(default_factory=list)


def compare(model: Model, tokenizer: Tokenizer, question: str, mode: ThinkingMode, found: Found,
            max_tokens: int) -> None:  # fmt: skip
    """Ask, and compare every draft of the reply with what the block says of the whole text."""
    drafts = NotingDrafts(model)
    engine = Engine(model, drafts=drafts, draft_most=1, draft_demanded=True)
    session = engine.session()
    asked = [{"role": "user", "content": question}]
    session.sync(tokenizer.encode(encode_messages(asked, thinking_mode=mode)))
    found.tokens += len(list(session.stream(max_tokens)))
    text, drafted, use = session.tokens, drafts.last.drafted, session.draft_use
    assert use is not None and use.drafted == len(drafted)
    right = sum(text[place] == draft for place, draft in drafted.items())
    assert use.accepted == right
    forced = teacher_forced(model, mx.concatenate(drafts.last.streams, axis=1), text)
    for place, draft in drafted.items():
        logits = forced[place - 2]
        second, first = np.sort(logits)[-2:]
        found.near += bool(first - second < NEAR)
        assert first - second < NEAR or draft == int(logits.argmax())
    found.drafted += use.drafted
    found.accepted += use.accepted
    found.texts.append(text)


def teacher_forced(model: Model, streams: mx.array, text: Sequence[int]) -> np.ndarray:
    """[T - 1, V]: row t is what the block says of token t + 2, in one call over all of them."""
    logits = model.mtp[0].predict(
        streams[:, : len(text) - 1],
        mx.array([text[1:]]),
        embed=model.model.embed_tokens,
        head=model.lm_head,
    )
    return np.array(logits[0])


@pytest.fixture(scope="module")
def nano() -> tuple[Model, Tokenizer]:
    return load_with_drafts(Path(NANO)), Tokenizer(NANO)


def questions() -> list[tuple[str, ThinkingMode]]:
    """Every held-out wording in chat mode, and every third with reasoning."""
    asked = [question for _, question in held_out(written_facts())]
    return [*((one, "chat") for one in asked), *((one, "thinking") for one in asked[::3])]  # type: ignore[list-item]


def test_drafts_of_a_reply_are_those_of_its_whole_text(nano: tuple[Model, Tokenizer]) -> None:
    found = Found()
    compare(*nano, *questions()[0], found, max_tokens=10)
    assert found.drafted >= 4 and found.accepted > 0 and found.near <= 1


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(4))
def test_drafts_of_held_out_questions_are_those_of_the_whole_texts(
    nano: tuple[Model, Tokenizer], part: int
) -> None:
    found = Found()
    for question, mode in questions()[part::4]:
        compare(*nano, question, mode, found, max_tokens=64)
    print(f"{found.accepted} of {found.drafted} drafts right, {found.tokens} tokens")
    assert found.near <= 0.05 * found.drafted
    assert found.accepted > 0.9 * found.drafted
