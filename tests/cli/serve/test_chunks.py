"""What the two dialects of chunks share: the prompt counts once, as the first answer met it."""

import json
from typing import Any

import pytest

from cli.serve.chat_completions import ChatCompletions
from cli.serve.completions import CompletionsDialect
from dsv4_mlx.chat.events import Done, Usage
from tests.cli.serve.driven import context

MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("dialect", "body"),
    [(ChatCompletions(), {"messages": MESSAGES}), (CompletionsDialect(), {"prompt": "Hi"})],
    ids=["chat", "completions"],
)
def test_what_was_cached_is_of_the_first_answer_whichever_ends_first(
    dialect: Any, body: dict[str, Any]
) -> None:
    more = {"n": 2, "stream": True, "stream_options": {"include_usage": True}}
    writer = dialect.read({**body, **more}, context()).writer
    writer.event(1, Done("stop", Usage(10, 9, 3)))  # a fork of the first: its prompt was read
    writer.event(0, Done("stop", Usage(10, 2, 5)))
    told = json.loads(writer.end()[0].data)["usage"]
    assert told["prompt_tokens"] == 10 and told["completion_tokens"] == 8
    assert told["prompt_tokens_details"] == {"cached_tokens": 2}
    assert writer.whole()["usage"] == told
