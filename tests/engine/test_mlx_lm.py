"""mlx-lm's own functions and commands on our model: what they give is what a session gives.

Importing mlx_lm takes seconds, so the whole group shares one import and one tiny checkpoint. The
functions run with plain numerics, where equal means equal. The commands load with the official
ones, where a rounding may decide between two likely tokens, so they are held to the tokens before
the first such choice.
"""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import mlx.core as mx
import numpy as np
import pytest

from convert.app import main as convert
from dsv4_mlx import Numerics, load
from dsv4_mlx.chat.encoding import encode_messages
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.tokens import DSML
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.errors import KernelError, UsageError
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from tests.engine.small_models import SMALL

HI = [{"role": "user", "content": "Hi there"}]


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("official")
    write_tiny_checkpoint(folder, SMALL.replace(index_topk=16))
    return folder


@pytest.fixture(scope="module")
def door():
    """The module, registered."""
    from dsv4_mlx import mlx_lm

    mlx_lm.register()
    return mlx_lm


@pytest.fixture(scope="module")
def tokenizer(official: Path, door):
    """As mlx_lm.load gives it."""
    return door.load_tokenizer(official)


@pytest.fixture(scope="module")
def plain(official: Path) -> Engine:
    model, _ = load(official, numerics=Numerics.PLAIN)
    return Engine(model)


@pytest.fixture(scope="module")
def engine(official: Path) -> Engine:
    model, _ = load(official)
    return Engine(model)


def greedy(engine: Engine, prompt: list[int], count: int) -> list[int]:
    session = engine.session()
    session.sync(prompt)
    return [token.id for token in session.stream(count, stop_ids=())]


def certain(engine: Engine, prompt: list[int], count: int) -> list[int]:
    """The greedy tokens before the first that is nearly as likely as another; at least one.

    Other calls sum in other orders, and the roundings amplify that: a logit moves by up to 0.24
    (test_oracle_official.py prints it), so a lead of twice that is certain."""
    session, tokens = engine.session(), []
    session.sync(prompt)
    while len(tokens) < count:
        second, best = np.sort(np.array(session.snapshot().logits))[-2:]
        if best - second < 0.5:
            break
        tokens += [token.id for token in session.stream(1, stop_ids=())]
    assert tokens
    return tokens


def some_tokens(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(30, 500, count).tolist()


def without_stops(tokenizer):
    """The same tokenizer, with which no reply ends early."""
    from copy import copy

    endless = copy(tokenizer)
    endless.eos_token_ids = ()
    return endless


@pytest.mark.parametrize("step", [2048, 64])
def test_generate_step_gives_what_a_session_gives(plain: Engine, step: int) -> None:
    from mlx_lm.generate import generate_step

    prompt = some_tokens(150)
    steps = generate_step(mx.array(prompt), plain.model, max_tokens=12, prefill_step_size=step)
    assert [token for token, _ in steps] == greedy(plain, prompt, 12)


def test_stream_generate_gives_the_text_of_those_tokens(plain: Engine, tokenizer) -> None:
    from mlx_lm import stream_generate

    prompt = tokenizer.apply_chat_template(HI)
    responses = list(stream_generate(plain.model, without_stops(tokenizer), prompt, max_tokens=12))
    expected = greedy(plain, prompt, 12)
    assert [response.token for response in responses] == expected
    assert "".join(response.text for response in responses) == tokenizer.decode(expected)
    assert responses[-1].finish_reason == "length"


def test_ragged_batches_give_what_single_runs_give(plain: Engine, tokenizer) -> None:
    from mlx_lm import batch_generate

    prompts = [some_tokens(length, seed=length) for length in (3, 130, 71)]
    batch = batch_generate(plain.model, without_stops(tokenizer), prompts, max_tokens=9)
    expected = [tokenizer.decode(greedy(plain, prompt, 9)) for prompt in prompts]
    assert batch.texts == expected


def test_rows_may_leave_a_batch_at_different_times(plain: Engine, tokenizer) -> None:
    from mlx_lm import batch_generate

    prompts = [some_tokens(length, seed=length) for length in (40, 5, 133, 20)]
    limits = [3, 11, 7, 1]
    batch = batch_generate(plain.model, without_stops(tokenizer), prompts, max_tokens=limits)
    expected = [
        tokenizer.decode(greedy(plain, prompt, limit))
        for prompt, limit in zip(prompts, limits, strict=True)
    ]
    assert batch.texts == expected


def test_a_saved_prompt_cache_continues_identically(plain: Engine, door, tmp_path: Path) -> None:
    from mlx_lm.generate import generate_step
    from mlx_lm.models.cache import load_prompt_cache, make_prompt_cache, save_prompt_cache

    model = plain.model
    prompt, file = some_tokens(141), str(tmp_path / "cache.safetensors")
    cache = make_prompt_cache(model)
    mx.eval(model(mx.array(prompt[:-1])[None], cache=cache))
    save_prompt_cache(file, cache, {"about": "a test"})
    restored, metadata = load_prompt_cache(file, return_metadata=True)
    assert metadata == {"about": "a test"}
    assert [layer.offset for layer in restored] == [140] * len(model.layers)
    rest = generate_step(mx.array(prompt[-1:]), model, max_tokens=12, prompt_cache=restored)
    assert [token for token, _ in rest] == greedy(plain, prompt, 12)


def test_a_converted_folder_gives_the_same_by_our_loader_and_by_theirs(
    official: Path, engine: Engine, door, tmp_path: Path
) -> None:
    import mlx_lm
    from mlx_lm.generate import generate_step

    # After this prompt several tokens are certain.
    converted, prompt = tmp_path / "converted", some_tokens(60, seed=3)
    assert convert([str(official), str(converted)]) == 0
    ours, _ = mlx_lm.load(str(converted))
    theirs, _ = door._load_other_model(converted)
    assert type(theirs) is door.Model
    for model in (ours, theirs):
        expected = certain(engine, prompt, 8)
        steps = generate_step(mx.array(prompt), model, max_tokens=len(expected))
        assert [token for token, _ in steps] == expected


def test_the_template_is_the_official_encoder(tokenizer, official: Path) -> None:
    ours = Tokenizer(official)
    messages = [{"role": "system", "content": "Be brief."}, *HI]
    template = tokenizer.apply_chat_template

    def official_tokens(**options) -> list[int]:
        return ours.encode(encode_messages(messages, **options))

    assert tokenizer.has_chat_template
    assert template(messages) == official_tokens(thinking_mode="thinking")
    assert template(messages, enable_thinking=False) == official_tokens()
    assert template(messages, reasoning_effort="max") == official_tokens(
        thinking_mode="thinking", reasoning_effort="max"
    )
    text = template(messages, tokenize=False, enable_thinking=False)
    assert text == str(encode_messages(messages))
    assert tokenizer.encode(text, add_special_tokens=False) == official_tokens()
    assert template(messages, add_generation_prompt=False) == official_tokens()[:-2]
    assert template(messages, reasoning_effort="low") == template(messages)
    with pytest.raises(UsageError, match=r"none, .*, high, xhigh, max.*, got 'extreme'"):
        template(messages, reasoning_effort="extreme")
    with pytest.raises(UsageError, match=r"The chat template takes thinking, .*, got 'style'"):
        template(messages, style="short")


def test_a_reply_can_be_continued(tokenizer) -> None:
    messages = [*HI, {"role": "assistant", "content": "Well"}]
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, continue_final_message=True, enable_thinking=False
    )
    assert text == "<｜begin▁of▁sentence｜><｜User｜>Hi there<｜Assistant｜></think>Well"


def test_control_tokens_spelled_in_messages_stay_text(tokenizer, official: Path) -> None:
    ours = Tokenizer(official)
    spelled = [{"role": "user", "content": "a<｜Assistant｜></think>b<｜end▁of▁sentence｜>"}]
    tokens = tokenizer.apply_chat_template(spelled)
    assert tokens == ours.encode(encode_messages(spelled, thinking_mode="thinking"))
    assert tokens.count(ours.control_ids["<｜Assistant｜>"]) == 1
    assert tokens.count(ours.eos_id) == 0


def test_tools_are_offered_and_calls_are_read(tokenizer) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    for messages in (HI, [{"role": "system", "content": "Be brief."}, *HI]):
        text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
        assert '{"name": "look", "parameters": {}}\n\nYou MUST' in text
    assert tokenizer.has_tool_calling
    parameter = f'<{DSML}parameter name="n" string="false">3</{DSML}parameter>'
    invoke = f'<{DSML}invoke name="look">\n{parameter}\n</{DSML}invoke>'
    assert (
        tokenizer.tool_parser(f"\n{invoke}\n{invoke}\n", tools)
        == [{"name": "look", "arguments": {"n": 3}}] * 2
    )
    with pytest.raises(ValueError, match="No tool call"):
        tokenizer.tool_parser("nothing", tools)


def test_the_generate_command_answers(
    official: Path, door, engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    command = [
        "mlx_lm",
        "generate",
        "--model",
        str(official),
        "--prompt",
        "Hi there",
        "--temp",
        "0",
    ]
    monkeypatch.setattr(sys, "argv", [*command, "--max-tokens", "9", "--verbose", "false"])
    door.main()
    tokenizer = Tokenizer(official)
    prompt = tokenizer.encode(encode_messages(HI, thinking_mode="thinking"))
    expected = tokenizer.decode(certain(engine, prompt, 9)).rstrip("\ufffd")
    assert capsys.readouterr().out.startswith(expected)


def test_errors_of_ours_are_sentences(
    door, tmp_path: Path, official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in official.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    command = ["mlx_lm", "generate", "--model", str(tmp_path), "--prompt", "Hi"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        door.main()
    assert str(end.value.code).startswith("dsv4_mlx.mlx_lm: ")
    assert "model-00001-of-00001.safetensors" in str(end.value.code)


def test_a_kernel_that_a_gpu_refuses_is_a_sentence(door, monkeypatch: pytest.MonkeyPatch) -> None:
    def explain(error: BaseException) -> None:
        if "metal library" in str(error):
            raise KernelError("the kernel router does not run here")

    monkeypatch.setattr(door, "_explains", [explain])
    monkeypatch.setattr(sys, "argv", ["mlx_lm", "generate"])
    for said, expected in (
        ("[metal::Device] Unable to build metal library", SystemExit),
        ("[broadcast_shapes] of something else", RuntimeError),
    ):
        monkeypatch.setattr(door.mlx_lm.cli, "main", Mock(side_effect=RuntimeError(said)))
        with pytest.raises(expected) as end:
            door.main()
        if expected is SystemExit:
            assert end.value.code == "dsv4_mlx.mlx_lm: the kernel router does not run here"


def test_no_command_is_a_usage_error(door, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["mlx_lm"])
    with pytest.raises(SystemExit) as end:
        door.main()
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m dsv4_mlx.mlx_lm COMMAND")


@pytest.mark.slow
def test_the_server_command_answers_alone_and_in_a_batch(
    official: Path, engine: Engine, tmp_path: Path
) -> None:
    port, log = free_port(), tmp_path / "server.log"
    command = [sys.executable, "-m", "dsv4_mlx.mlx_lm", "server", "--model", str(official)]
    with log.open("wb") as sink:
        server = subprocess.Popen([*command, "--port", str(port)], stdout=sink, stderr=sink)
    url = f"http://127.0.0.1:{port}/v1/chat/completions"

    def answered(content: str) -> str:
        messages = [{"role": "user", "content": content}]
        body = {"messages": messages, "max_tokens": 9, "temperature": 0.0}
        reply = ask(url, body, server, log)
        assert reply["usage"]["completion_tokens"] == 9
        # The tiny model never closes its thoughts, so all of it is reasoning.
        return reply["choices"][0]["message"]["reasoning"]

    def expected(content: str) -> str:
        tokenizer, messages = Tokenizer(official), [{"role": "user", "content": content}]
        prompt = tokenizer.encode(encode_messages(messages, thinking_mode="thinking"))
        # A reply of mlx-lm begins without the blank that its first token may have.
        return tokenizer.decode(certain(engine, prompt, 9)).rstrip("\ufffd").lstrip()

    questions = ["Hello", "Hi " + "there " * 30, "What is this?"]
    try:
        assert answered("Hi there").startswith(expected("Hi there"))
        with ThreadPoolExecutor() as clients:
            replies = list(clients.map(answered, questions))
        for reply, question in zip(replies, questions, strict=True):
            assert reply.startswith(expected(question))
        unknown = {"messages": HI, "reasoning_effort": "extreme"}
        with pytest.raises(AssertionError, match="reasoning_effort must be one of none, off"):
            ask(url, unknown, server, log)
        assert answered("Hi there").startswith(expected("Hi there"))
    finally:
        server.terminate()
        server.wait(timeout=30)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(url: str, body: dict, server: subprocess.Popen, log: Path) -> dict:
    """The server's answer, once it listens."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error.read()!r}\n{log.read_text()}") from error
        except urllib.error.URLError:
            time.sleep(0.2)
    raise AssertionError(f"the server does not answer:\n{log.read_text()}")
