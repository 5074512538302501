"""What is pasted for each client: as a whole file of its kind, with the server's own facts."""

import io
import json
import shlex
import tomllib
from collections.abc import Callable
from typing import Any

import pytest

from cli.environment import Environment
from cli.serve.client_configs import CLIENTS, ServerAddress, client_config

PLAIN = ServerAddress("127.0.0.1", 8642, "DeepSeek-V4-Flash", context=131_072)
HOSTILE = ServerAddress("::1", 81, "a $(name) 'of' \"two\\", key="s3$cret'", context=4096)
SHELLS = ("claude", "qwen", "aider")
JSONS = ("opencode", "pi")


def exported(text: str) -> dict[str, str]:
    words = [shlex.split(line) for line in text.splitlines()]
    assert all(word[0] == "export" and len(word) == 2 for word in words)
    return dict(word[1].split("=", 1) for word in words)


def parsed(client: str, text: str) -> dict[str, Any]:
    if client in SHELLS:
        return exported(text)
    return dict(json.loads(text) if client in JSONS else tomllib.loads(text))


def texts_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(text for part in value.values() for text in texts_in(part))]
    if isinstance(value, list):
        return [text for part in value for text in texts_in(part)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("client", CLIENTS)
def test_what_is_pasted_is_what_the_page_shows(
    client: str, golden: Callable[[str, str], None]
) -> None:
    paste = client_config(client, PLAIN)
    golden(f"serve/config-{client}.txt", paste.text + "".join(f"# {n}\n" for n in paste.notes))


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("server", [PLAIN, HOSTILE], ids=["plain", "hostile"])
def test_what_is_pasted_parses_and_says_where_and_what(client: str, server: ServerAddress) -> None:
    said = texts_in(parsed(client, client_config(client, server).text))
    urls = {server.url, server.openai_url}
    assert [text for text in said if text in urls]
    assert any(text.removeprefix("openai/").removeprefix("dsv4/") == server.model for text in said)


@pytest.mark.parametrize("client", CLIENTS)
def test_the_key_is_pasted_or_exported_beside(client: str) -> None:
    paste = client_config(client, HOSTILE)
    said = texts_in(parsed(client, paste.text))
    beside = [exported(n.partition(": ")[2]) for n in paste.notes if "reads the key" in n]
    assert HOSTILE.key in said or beside == [{"DSV4_API_KEY": HOSTILE.key}]


def test_a_server_without_a_key_demands_no_variable_of_codex() -> None:
    text = client_config("codex", PLAIN).text
    assert "env_key" not in tomllib.loads(text)["model_providers"]["dsv4"]


def test_codex_reads_the_model_above_all_tables() -> None:
    config = tomllib.loads(client_config("codex", HOSTILE).text)
    assert config["model"] == HOSTILE.model and config["model_context_window"] == 4096
    assert config["model_providers"]["dsv4"]["base_url"] == "http://[::1]:81/v1"


def test_lengths_are_left_out_where_nobody_knows_them() -> None:
    unknown = ServerAddress("127.0.0.1", 8080, "m")
    models = json.loads(client_config("pi", unknown).text)["providers"]["dsv4"]["models"]
    assert models == [{"id": "m", "reasoning": True}]
    assert "limit" not in client_config("opencode", unknown).text
    assert "context" not in client_config("codex", unknown).text


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_who_serves_all_hosts_is_told_to_name_this_one_elsewhere(host: str) -> None:
    paste = client_config("claude", ServerAddress(host, 8080, "m", key="k"))
    assert exported(paste.text)["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8080"
    assert "in the place of 127.0.0.1" in paste.notes[-1]
    assert not any("in the place of" in note for note in client_config("claude", PLAIN).notes)


def test_a_file_gets_the_text_and_the_person_the_notes() -> None:
    stdout, stderr = io.StringIO(), io.StringIO()
    paste = client_config("opencode", PLAIN)
    paste.print_to(Environment(io.StringIO(), stdout, stderr, {}))
    assert stdout.getvalue() == paste.text and json.loads(paste.text)
    assert stderr.getvalue().splitlines() == list(paste.notes)
