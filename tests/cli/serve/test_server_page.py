"""docs/server.md shows what the program prints."""

import re
from pathlib import Path

import pytest

from cli.serve.client_configs import CLIENTS, ServerAddress, client_config

PAGE = Path(__file__).parents[3] / "docs" / "server.md"
SERVER = ServerAddress("127.0.0.1", 8642, "DeepSeek-V4-Flash")
BLOCK = r"<!-- config: {} -->\n```(?:sh|toml|json)\n(.*?)```\n"


@pytest.mark.parametrize("client", CLIENTS)
def test_the_page_shows_what_is_printed_for_a_client(client: str) -> None:
    found = re.search(BLOCK.format(client), PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    assert found[1] == client_config(client, SERVER).text


def test_the_page_shows_no_client_that_there_is_not() -> None:
    shown = re.findall(r"<!-- config: (\w+) -->", PAGE.read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(CLIENTS)
