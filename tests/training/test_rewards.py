"""What answers are worth: right, wrong but whole, broken."""

import json

import pytest

from dsv4_mlx.chat.encoding import encode_messages
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.tokens import DSML
from dsv4_mlx.testing.tokenizers import write_tokenizer
from dsv4_mlx.training.data.tasks import tasks
from dsv4_mlx.training.rewards import WELL_FORMED, verdict
from dsv4_mlx.training.rollouts import Sample


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Tokenizer(folder)


def taught(tokenizer, task, reply=None) -> Sample:
    """The answer that a lesson gives, or another message, as it would have been sampled."""
    prompt = tokenizer.encode(task.prompt())
    messages = [*task.messages, reply or task.reply]
    whole = tokenizer.encode(encode_messages(messages, thinking_mode=task.thinking_mode))
    assert whole[: len(prompt)] == prompt
    tokens = tuple(whole[len(prompt) :])
    assert tokens[-1] == tokenizer.eos_id
    return Sample(tuple(prompt), tokens, (0.0,) * len(tokens), True)


@pytest.mark.parametrize("kind", ["arithmetic", "tools", "no_tool"])
@pytest.mark.parametrize("mode", ["chat", "thinking"])
def test_what_is_taught_is_right_and_worth_one(tokenizer, kind, mode):
    source = tasks(kind, "train", 0, mode)
    for _ in range(3):
        task = next(source)
        assert verdict(tokenizer, task, taught(tokenizer, task)).reward == 1


def test_a_wrong_number_is_worth_its_form(tokenizer):
    task = next(tasks("arithmetic", "train", 1, "thinking"))
    wrong = {**task.reply, "content": str(int(task.reply["content"]) + 1)}
    found = verdict(tokenizer, task, taught(tokenizer, task, wrong))
    assert (found.is_right, found.reward) == (False, WELL_FORMED)


def test_a_call_with_another_argument_is_worth_its_form(tokenizer):
    task = next(t for t in tasks("tools", "train", 2, "chat") if t.traits["tool"] == "calculator")
    (call,) = task.reply["tool_calls"]
    function = {"name": "calculator", "arguments": json.dumps({"expression": "1 + 1"})}
    wrong = {**task.reply, "tool_calls": [{**call, "function": function}]}
    assert verdict(tokenizer, task, taught(tokenizer, task, wrong)).reward == WELL_FORMED


def test_an_answer_that_ran_into_the_limit_is_worth_nothing(tokenizer):
    task = next(tasks("arithmetic", "train", 3, "chat"))
    whole = taught(tokenizer, task)
    found = verdict(tokenizer, task, Sample(whole.prompt, whole.tokens[:-1], (), False))
    assert (found.is_right, found.reward) == (True, 0)


def test_reasoning_has_to_be_closed(tokenizer):
    task = next(tasks("arithmetic", "train", 4, "thinking"))
    whole = taught(tokenizer, task)
    end = tokenizer.control_ids["</think>"]
    tokens = tuple(token for token in whole.tokens if token != end)
    assert verdict(tokenizer, task, Sample(whole.prompt, tokens, (), True)).reward == 0


def test_a_broken_call_is_worth_nothing(tokenizer):
    task = next(tasks("tools", "train", 5, "chat"))
    whole = taught(tokenizer, task)
    marks = [i for i, token in enumerate(whole.tokens) if token == tokenizer.control_ids[DSML]]
    tokens = (*whole.tokens[: marks[-2]], tokenizer.eos_id)  # the call is not ended
    assert verdict(tokenizer, task, Sample(whole.prompt, tokens, (), True)).reward == 0
