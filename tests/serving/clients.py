"""What clients make of a conversation before they send it again, one habit each."""

import json
from collections.abc import Callable
from copy import deepcopy
from itertools import count
from typing import Any

Messages = list[dict[str, Any]]
Habit = Callable[[Messages], Messages]


def exact(messages: Messages) -> Messages:
    return messages


def serialises_anew(messages: Messages) -> Messages:
    """opencode, Qwen Code, Cline: arguments without spaces, as JavaScript writes them."""
    for call in _calls(messages):
        arguments = json.loads(call["function"]["arguments"])
        call["function"]["arguments"] = json.dumps(arguments, separators=(",", ":"))
    return messages


def trims_reasoning(messages: Messages) -> Messages:
    """Qwen Code."""
    for message in _replies(messages):
        for key in ("reasoning_content", "content"):
            if isinstance(message.get(key), str):
                message[key] = message[key].strip()
    return messages


def drops_reasoning(messages: Messages) -> Messages:
    """Most programs on OpenAI's SDK."""
    for message in _replies(messages):
        message.pop("reasoning_content", None)
    return messages


def writes_null(messages: Messages) -> Messages:
    """pi, Cline."""
    for message in _replies(messages):
        message["content"] = message["content"] or None
        message["tool_calls"] = message["tool_calls"] or None
    return messages


def reorders_results(messages: Messages) -> Messages:
    """Claude Code: results in the order in which they came."""
    done: Messages = []
    results: Messages = []
    for message in messages:
        if message["role"] == "tool":
            results.insert(0, message)
            continue
        done += [*results, message]
        results = []
    return done + results


_numbers = count()


def bills(messages: Messages) -> Messages:
    """Claude Code: a line before the system message that is new every time."""
    number = next(_numbers)
    line = f"x-anthropic-billing-header: cc_version=2.1.{number}; cch=a{number};"
    return [{"role": "system", "content": line}, *messages]


def counts_down(messages: Messages) -> Messages:
    """Claude Code: a system message after each batch of results, and after each question."""
    done: Messages = []
    for place, message in enumerate(messages):
        done.append(message)
        following = messages[place + 1]["role"] if place + 1 < len(messages) else "assistant"
        if following == "assistant" and message["role"] != "system":
            left = 200_000 - 1000 * place
            done.append({"role": "system", "content": f"<total_tokens>{left} left</total_tokens>"})
    return done


def reminds(messages: Messages) -> Messages:
    """A reminder before each later question."""
    done: Messages = []
    for place, message in enumerate(messages):
        if message["role"] == "user" and done and done[-1]["role"] == "assistant":
            done.append({"role": "system", "content": f"Remember {place}."})
        done.append(message)
    return done


HABITS: tuple[Habit, ...] = (
    exact,
    serialises_anew,
    trims_reasoning,
    drops_reasoning,
    writes_null,
    reorders_results,
    bills,
    counts_down,
    reminds,
)


def as_sent(messages: Messages, *habits: Habit) -> Messages:
    """The conversation as a client of these habits sends it."""
    sent = deepcopy(messages)
    for habit in habits:
        sent = habit(sent)
    return sent


def _replies(messages: Messages) -> Messages:
    return [message for message in messages if message["role"] == "assistant"]


def _calls(messages: Messages) -> list[dict[str, Any]]:
    return [call for message in _replies(messages) for call in message["tool_calls"] or ()]
