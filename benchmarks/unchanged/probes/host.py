"""What Python does for one decoded token, counted: the same number whatever the machine's load."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import dsv4_mlx

from .logits import _loaded, prompt

TOKENS = 16


def work(folder: str, kv: str) -> dict[str, float]:
    """Calls of functions and executed bytecodes per token, averaged over `TOKENS` of them."""
    model = _loaded(folder, kv, "OFFICIAL")
    session = dsv4_mlx.Engine(model).session()
    session.sync(prompt(model.config.vocab_size))
    tokens = session.stream(stop_ids=())
    for _ in range(TOKENS):  # what is remembered from call to call is there then
        next(tokens)
    calls = _calls(tokens)
    calls["bytecodes"] = _bytecodes(tokens)
    return {name: calls[name] / TOKENS for name in ("Python calls", "C calls", "bytecodes")}


def _calls(tokens: Iterator[Any]) -> Counter[str]:
    found: Counter[str] = Counter()
    kinds = {"call": "Python calls", "c_call": "C calls"}

    def count(frame: FrameType, event: str, argument: Any) -> None:
        if event in kinds:
            found[kinds[event]] += 1

    sys.setprofile(count)
    try:
        for _ in range(TOKENS):
            next(tokens)
    finally:
        sys.setprofile(None)
    return found


def _bytecodes(tokens: Iterator[Any]) -> int:
    executed = 0

    def count(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        nonlocal executed
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        executed += event == "opcode"
        return count

    sys.settrace(count)
    try:
        for _ in range(TOKENS):
            next(tokens)
    finally:
        sys.settrace(None)
    return executed
