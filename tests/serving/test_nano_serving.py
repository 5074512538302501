"""The embedded model behind the scheduler: in company, after hits, forks and restarts."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import dsv4_mlx
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.loading import load
from dsv4_mlx.serving.events import Collected, TokenLikelihood
from dsv4_mlx.serving.job import ServedPrompt
from dsv4_mlx.serving.request import GenerationRequest
from dsv4_mlx.serving.service import Service
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
    engine, tokenizer = nano
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
