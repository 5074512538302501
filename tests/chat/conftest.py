"""What the tests of the chat share."""

import pytest

from dsv4_mlx.chat.tokenizer import Tokenizer
from tests.cli.scripted import write_chat_folder


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A small tokenizer in the official format."""
    return Tokenizer(write_chat_folder(tmp_path_factory.mktemp("model")))
