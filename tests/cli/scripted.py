"""A chat model that says what a test wants: the real engine and tokenizer on a fake model."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from cli.options import Options
from dsv4_mlx.chat.encoding import Prompt, Segment
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.tokens import ASSISTANT, DSML, END_THINK, EOS, THINK
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.release.config import FLASH
from dsv4_mlx.release.spellings import keys_of
from dsv4_mlx.scripted.fake import FakeModel, fake_engine, scripted
from dsv4_mlx.testing.tokenizers import write_tokenizer
from dsv4_mlx.weights.checkpoint import ModelFolder

VOCABULARY = 512


def write_chat_folder(folder: Path, *, context: int = FLASH.max_position_embeddings) -> Path:
    """A checkpoint folder as far as the chat program reads it before the model is loaded."""
    write_tokenizer(folder, vocab_size=VOCABULARY)
    config = FLASH.replace(vocab_size=VOCABULARY, max_position_embeddings=context)
    (folder / "config.json").write_text(json.dumps(keys_of(config)), encoding="utf-8")
    (folder / "generation_config.json").write_text('{"do_sample": false}', encoding="utf-8")
    return folder


def reply_tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of a reply in which `<think>`, `</think>` and `｜DSML｜` are control tokens."""
    controls = (THINK, END_THINK, DSML)
    pieces = re.split("(" + "|".join(controls) + ")", text)
    return tokenizer.encode(Prompt([Segment(piece, piece in controls) for piece in pieces]))


def scripted_engine(
    tokenizer: Tokenizer, replies: Sequence[str], *, context: int = FLASH.max_position_embeddings
) -> Engine:
    """Answers turn after turn with `replies`, an endless one if it ends in an ellipsis."""
    assistant, eos = tokenizer.control_ids[ASSISTANT], tokenizer.control_ids[EOS]
    said = [
        reply_tokens(tokenizer, reply) * (5000 if reply.endswith("…") else 1) for reply in replies
    ]
    next_token = scripted(said, assistant, eos)
    return fake_engine(
        FakeModel(next_token, vocab_size=VOCABULARY, max_position_embeddings=context)
    )


def opening(*replies: str) -> Callable[[ModelFolder, Options], tuple[Engine, Tokenizer]]:
    """An `open_model` for `cli.app.main`."""

    def open_model(opened: ModelFolder, options: Options) -> tuple[Engine, Tokenizer]:
        tokenizer = Tokenizer(opened.folder)
        return scripted_engine(tokenizer, replies), tokenizer

    return open_model
