"""mlx-lm's server with our model: requests in other programs' words, and errors in sentences.

The server hands on no field of a request that says how to think, and a few numbers that it takes
end its only thread or the whole program. `teach` mends both without importing mlx-lm.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dsv4_mlx.chat.requests import (
    REQUEST_FIELDS,
    check_generation,
    check_messages,
    read_messages,
    template_options,
)
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.documents import shown

# Within these every number is one in float32, on backends too that take smaller ones for zero.
_LEAST, _MOST = 2.0**-126, 2.0**126
_COLDEST = 1e-6


def teach(server: Any, ours: Callable[[Any], bool]) -> None:
    """Teach the module `mlx_lm.server`; `ours` tells our tokenizers. Once is enough."""
    handler, generator = server.APIHandler, server.ResponseGenerator
    if getattr(handler.do_POST, "__module__", "") == __name__:
        return
    handler.do_POST = _post(handler.do_POST)
    handler.handle_chat_completions = _chat_request(handler.handle_chat_completions)
    handler.handle_text_completions = _text_request(handler.handle_text_completions)
    generator._tokenize = _tokenize(generator._tokenize, ours)


def _post(post: Callable[[Any], None]) -> Callable[[Any], None]:
    def do_POST(handler: Any) -> None:
        try:
            post(handler)
        except (ValueError, RecursionError):
            if hasattr(handler, "body"):
                raise
            sentence = "The body of a request must be JSON of a usual size and depth, in UTF-8."
            handler._set_completion_headers(400)
            handler.end_headers()
            handler.wfile.write(json.dumps({"error": sentence}).encode())

    return do_POST


# What is raised by these three becomes the body of the server's answer.


def _chat_request(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def handle_chat_completions(handler: Any) -> Any:
        check_generation(handler.body)
        check_messages(handler.body.get("messages"))
        request = make(handler)
        # Beside its fields, for `_tokenize`, where it is known whether the model is ours.
        request.thinking = {key: handler.body[key] for key in REQUEST_FIELDS if key in handler.body}
        return request

    return handle_chat_completions


def _text_request(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def handle_text_completions(handler: Any) -> Any:
        check_generation(handler.body)
        return make(handler)

    return handle_text_completions


def _tokenize(
    tokenize: Callable[..., Any], ours: Callable[[Any], bool]
) -> Callable[[Any, Any, Any, Any], Any]:
    def _tokenize(generator: Any, tokenizer: Any, request: Any, args: Any) -> Any:
        if not ours(tokenizer):
            return tokenize(generator, tokenizer, request, args)
        _fit(args, len(tokenizer._tokenizer))
        if request.request_type == "chat":
            asked = {
                **getattr(request, "thinking", {}),
                "chat_template_kwargs": args.chat_template_kwargs,
            }
            args = replace(args, chat_template_kwargs=template_options(asked))
            request = replace(request, messages=read_messages(request.messages))
        elif not isinstance(request.prompt, str) or not request.prompt:
            raise UsageError(f"prompt must be a text, got {shown(request.prompt)}.")
        return tokenize(generator, tokenizer, request, args)

    return _tokenize


def _fit(args: Any, vocabulary: int) -> None:
    """Numbers at the end of their ranges as ones that mean the same to mlx-lm's sampler."""
    sampling, logits = args.sampling, args.logits
    if sampling.top_k >= vocabulary:
        sampling.top_k = 0
    sampling.top_p = max(sampling.top_p, _LEAST) if sampling.top_p else 0
    sampling.min_p = sampling.min_p if sampling.min_p >= _LEAST else 0.0
    cold = sampling.temperature < _COLDEST
    sampling.temperature = 0.0 if cold else min(sampling.temperature, _MOST)
    if logits.repetition_penalty:
        # A logit is far from 1e8, so that the product stays in float32.
        logits.repetition_penalty = min(max(logits.repetition_penalty, 1e-30), 1e30)
    wrong = [token for token in logits.logit_bias or {} if not 0 <= token < vocabulary]
    if wrong:
        raise UsageError(f"logit_bias takes token ids from 0 to {vocabulary - 1}, got {wrong[0]}.")
