"""Log-probabilities of tokens as chat completions and responses tell them."""

from collections.abc import Callable
from typing import Any, Final

from cli.serve.faults import RequestFault
from cli.serve.reading import Body, whole
from dsv4_mlx.chat.tokens import END_THINK
from dsv4_mlx.serving.events import TokenLikelihood

MOST_LIKELIEST: Final = 20
TokenBytes = Callable[[int], bytes]
"""The bytes of a token."""
Told = dict[str, Any]


def likeliest_of(body: Body, wants_likelihoods: bool) -> int:
    """How many of the likeliest tokens `top_logprobs` asks for beside each."""
    count = whole(body, "top_logprobs", 0, MOST_LIKELIEST) or 0
    if count and not wants_likelihoods:
        raise RequestFault(
            "invalid",
            f"top_logprobs {count} needs logprobs, which is not true; set it, or leave both out.",
            "top_logprobs",
        )
    return count


def told_of(event: TokenLikelihood, token_bytes: TokenBytes) -> list[Told]:
    """What is told of a token; nothing of the one that ends the reasoning."""
    if token_bytes(event.token) == END_THINK.encode():
        return []
    likeliest = [_entry(token, logprob, token_bytes) for token, logprob in event.likeliest]
    return [{**_entry(event.token, event.logprob, token_bytes), "top_logprobs": likeliest}]


def _entry(token: int, logprob: float, token_bytes: TokenBytes) -> Told:
    """A token; of a part of a character `bytes` has what the text cannot say."""
    spelled = token_bytes(token)
    text = spelled.decode("utf-8", "replace")
    return {"token": text, "logprob": logprob, "bytes": list(spelled)}
