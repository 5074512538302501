"""The embedded model behind the scheduler: in company, after hits, forks and restarts."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import dsv4_mlx
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.device.row_finding import RowFinding
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.loading import load, load_model
from dsv4_mlx.serving.events import Collected, TokenLikelihood
from dsv4_mlx.serving.job import ServedPrompt
from dsv4_mlx.serving.request import GenerationRequest
from dsv4_mlx.serving.service import Service
from dsv4_mlx.weights.checkpoint import open_checkpoint
from tests.model.row_exact import row_exact_plan
from tests.serving.served import assert_adds_up, ended

pytestmark = pytest.mark.slow
CHUNK = 48
FIRST = "You add numbers. " * 80
QUESTIONS = (
    "What is 12 + 30? " * 6,
    "Say the alphabet backwards. " * 5,
    "Which colour is it? " * 4,
)


@pytest.fixture(scope="module")
def nano() -> Iterator[tuple[Engine, Tokenizer]]:
    folder = Path(dsv4_mlx.__file__).parent / "nano"
    model, tokenizer = load(folder, backend="cpu")
    yield Engine(model, prefill_chunk=CHUNK), tokenizer


@pytest.fixture(scope="module")
def in_rounds() -> tuple[Engine, Tokenizer]:
    """Nano, whose rows of one call have the bits of single ones."""
    folder = Path(dsv4_mlx.__file__).parent / "nano"
    model = load_model(open_checkpoint(folder), dtype=mx.float32, kernels=row_exact_plan())
    model.row_finding = RowFinding(8, round_rows=8)
    return Engine(model, prefill_chunk=CHUNK, compiled=False), Tokenizer(folder)


Drawn = list[tuple[int, str]]
"""Tokens, and the bits of their log-probabilities."""


def drawn(outlet: Collected, answer: int = 0) -> Drawn:
    events = outlet.of(answer)
    return [(e.token, e.logprob.hex()) for e in events if isinstance(e, TokenLikelihood)]


def request(temperature: float = 0.0, answers: int = 1) -> GenerationRequest:
    settings = AnswerSettings(
        Thinking("chat"), sampling=Sampling(temperature, seed=5), max_tokens=12, loops="off"
    )
    return GenerationRequest((), settings, answers=answers, wants_likelihoods=True)


def alone(
    engine: Engine, prompt: Sequence[int], begins: int, temperature: float, seed: int
) -> Drawn:
    """What a session says that reads `prompt` from `begins` on, as the service did."""
    session = engine.session()
    if begins:
        list(session.reading(prompt[:begins]))
    list(session.reading(prompt))
    stream = session.stream(12, temperature=temperature, seed=seed)
    return [(token.id, token.logprob.hex()) for token in stream]


def prompt_of(tokenizer: Tokenizer, *texts: str) -> list[int]:
    controls = tokenizer.control_ids
    tokens = [tokenizer.bos_id]
    for text in texts:
        tokens += [controls["<｜User｜>"], *tokenizer.encode(text)]
    return [*tokens, controls["<｜Assistant｜>"], controls["</think>"]]


def finish(service: Service) -> None:
    while service.scheduler.step():
        pass


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_in_company_a_request_has_the_bits_of_a_session_alone(
    nano: tuple[Engine, Tokenizer], temperature: float
) -> None:
    expect_as_alone(*nano, temperature)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_so_it_has_in_rounds(
    in_rounds: tuple[Engine, Tokenizer], monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    """Those that answer at the same time, by one call for all of them."""
    engine, together = in_rounds[0], []
    own = engine.start_together
    monkeypatch.setattr(
        engine, "start_together", lambda lines: together.append(len(lines)) or own(lines)
    )
    expect_as_alone(*in_rounds, temperature)
    assert together and min(together) > 1


def expect_as_alone(engine: Engine, tokenizer: Tokenizer, temperature: float) -> None:
    """Two answers to each of three questions at a time."""
    service = Service(engine, tokenizer, "2026-07-31")
    prompts = [prompt_of(tokenizer, question) for question in QUESTIONS]
    outlets = []
    for prompt in prompts:
        outlet = Collected()
        outlets.append(outlet)
        service.scheduler.submit(request(temperature, 2), ServedPrompt(tuple(prompt)), outlet)
        service.scheduler.step()
    finish(service)
    for prompt, outlet in zip(prompts, outlets, strict=True):
        for answer in range(2):
            assert_adds_up(prompt, outlet.of(answer))
            begins = ended(outlet.of(0)).usage.cached_tokens
            assert drawn(outlet, answer) == alone(engine, prompt, begins, temperature, 5 + answer)


def test_hits_forks_and_restarts_keep_the_bits(
    nano: tuple[Engine, Tokenizer], tmp_path: Path
) -> None:
    engine, tokenizer = nano

    def opened() -> Service:
        return Service(engine, tokenizer, "2026-07-31", folder=tmp_path, disk_bytes=1 << 30)

    service = opened()
    first = prompt_of(tokenizer, FIRST, QUESTIONS[0])
    boundary = len(prompt_of(tokenizer, FIRST)) - 2
    served = ServedPrompt(tuple(first), (1, boundary), (boundary,))
    outlet = Collected()
    service.scheduler.submit(request(), served, outlet)
    finish(service)
    for restarts, question in ((False, QUESTIONS[1]), (True, QUESTIONS[2]), (True, QUESTIONS[1])):
        service = opened() if restarts else service
        prompt = prompt_of(tokenizer, FIRST, question)
        outlet = Collected()
        service.scheduler.submit(request(), ServedPrompt(tuple(prompt), (1, boundary)), outlet)
        finish(service)
        begins = ended(outlet.of()).usage.cached_tokens
        assert begins >= boundary
        assert_adds_up(prompt, outlet.of())
        reads = alone_from(engine, first, prompt, boundary, begins)
        assert drawn(outlet) == reads


def alone_from(
    engine: Engine, first: Sequence[int], prompt: Sequence[int], boundary: int, begins: int
) -> Drawn:
    """A session that reads `first`, goes back to `boundary` and reads `prompt` from there; where
    that was done before, it goes back to the place at `begins` and reads the rest again."""
    session = engine.session()
    list(session.reading(first, [boundary]))
    session.rewind(boundary)
    if begins > boundary:
        list(session.reading(prompt))
        assert session.rewind(begins) == begins
    list(session.reading(prompt))
    return [(token.id, token.logprob.hex()) for token in session.stream(12)]


# Against a cold reading, whose chunks end elsewhere


def test_what_was_reused_says_what_a_cold_reading_says(
    nano: tuple[Engine, Tokenizer], tmp_path: Path
) -> None:
    """Wherever the cold reading is sure: its two best tokens lie further apart than four times the
    largest difference between readings that were cut elsewhere."""
    engine, tokenizer = nano

    def opened() -> Service:
        return Service(engine, tokenizer, "2026-07-31", folder=tmp_path, disk_bytes=1 << 30)

    def asked(service: Service, prompt: Sequence[int]) -> tuple[int, list[int]]:
        """Tokens of `prompt` that were reused, and what follows it."""
        outlet = Collected()
        places = (1, boundary) if len(prompt) > boundary else ()
        service.scheduler.submit(request(), ServedPrompt(tuple(prompt), places), outlet)
        finish(service)
        assert_adds_up(prompt, outlet.of())
        return ended(outlet.of()).usage.cached_tokens, [token for token, _ in drawn(outlet)]

    boundary = len(prompt_of(tokenizer, FIRST)) - 2
    service, first = opened(), prompt_of(tokenizer, FIRST, QUESTIONS[0])
    reply = asked(service, first)[1]
    hit = [*first, *reply, *prompt_of(tokenizer, QUESTIONS[1])[1:]]
    fork, last = (prompt_of(tokenizer, FIRST, question) for question in QUESTIONS[1:])
    sure = 0
    for begun, prompt, least in (
        (service, hit, len(first)),
        (service, fork, boundary),
        (service, first, len(first) - 1),  # restored after others went on from it
        (opened(), last, boundary),
    ):
        reused, said = asked(begun, prompt)
        assert reused >= least
        sure += sure_tokens(engine, prompt, (reused, 100), said)
    assert sure > 10


def sure_tokens(
    engine: Engine, prompt: Sequence[int], cuts: Sequence[int], said: Sequence[int]
) -> int:
    """Of the tokens of `said` those that a cold reading of `prompt` is sure of, given how far
    readings in two parts, cut at `cuts`, are from it; it says them all."""
    tokens, cold = followed(engine, prompt, 0, ())
    others = [followed(engine, prompt, cut, tokens)[1] for cut in cuts if 0 < cut < len(prompt)]
    apart = [mx.abs(a - b).max() for rows in others for a, b in zip(rows, cold, strict=True)]
    most: Any = mx.stack(apart).max().item()
    sure = 0
    for row, token, other in zip(cold, tokens, said, strict=False):
        best: Any = mx.sort(row)[-2:].tolist()
        is_sure = best[1] - best[0] > 4 * most
        assert token == other or not is_sure
        if token != other:
            break  # from here on they go on from other tokens
        sure += is_sure
    return sure


def followed(
    engine: Engine, prompt: Sequence[int], cut: int, forced: Sequence[int]
) -> tuple[list[int], list[mx.array]]:
    """The reply to `prompt`, read in two parts, or as `forced` has it, and the log-probabilities
    [V] of each of its tokens."""
    rows: list[mx.array] = []

    def follow(logprobs: mx.array) -> mx.array:
        rows.append(logprobs)
        known = forced[len(rows) - 1 : len(rows)]
        return mx.array(known[0]) if known else mx.argmax(logprobs)

    session = engine.session()
    if cut:
        list(session.reading(prompt[:cut]))
    list(session.reading(prompt))
    stops = () if forced else None
    tokens = [token.id for token in session.stream(12, sampler=follow, stop_ids=stops)]
    tokens = tokens[: len(forced) or None]
    return tokens, rows[: len(tokens)]
