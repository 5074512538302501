"""What a conversation tells of a model whose experts lie in files."""

from collections.abc import Callable, Collection
from typing import Any

import mlx.core as mx

from dsv4_mlx.chat.events import Progress
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.engine.expert_use import ExpertUse
from dsv4_mlx.scripted.fake import FakeModel
from tests.chat.talking import answer, talk

LAYERS = 43


def streamed(model: Any) -> None:
    """Let a fake model count experts as it is called, and pass prompts through its layers."""
    reads = {"slots": 9, "hits": 0, "misses": 0, "bytes_read": 0, "waited_s": 0.0}

    def read_by_layers(
        tokens: mx.array,
        cache: Any,
        *,
        chunk: int,
        moments: Collection[int],
        before_layer: Callable[[int], bool],
    ) -> mx.array:
        for layer in range(LAYERS + 1):
            assert before_layer(layer)
        cache[0].marks = tuple(sorted(moments))
        reads["misses"] += 10
        reads["bytes_read"] += 1000
        reads["waited_s"] += 0.5
        logits: mx.array = FakeModel.last_logits(model, tokens, cache)
        return logits

    model.reads_by_layers, model.read_by_layers = True, read_by_layers
    model.expert_reads = lambda: reads


def test_progress_names_the_layer_and_done_what_was_found(tokenizer: Tokenizer) -> None:
    conversation = talk(tokenizer, "One.", "Two.")
    streamed(conversation._model_side._engine.model)
    *events, done = conversation.send("a")
    told = [event for event in events if isinstance(event, Progress)]
    prompt = done.usage.prompt_tokens
    layers = [Progress(0, prompt, (layer, LAYERS)) for layer in range(LAYERS + 1)]
    assert told == [Progress(0, prompt), *layers, Progress(prompt, prompt)]
    assert done.experts == ExpertUse(9, misses=10, bytes_read=1000, waited_s=0.5)
    _, done = answer(conversation, "b")
    assert done.experts == ExpertUse(9, misses=10, bytes_read=1000, waited_s=0.5)
    assert done.reply_experts == ExpertUse(9)
    assert conversation.context().experts == ExpertUse(9, 0, 20, 2000, 1.0)


def test_a_model_in_memory_tells_nothing_of_experts(tokenizer: Tokenizer) -> None:
    conversation = talk(tokenizer, "One.")
    _, done = answer(conversation, "a")
    assert done.experts is None and conversation.context().experts is None
