"""What to paste so that a coding agent uses the server: `dsv4-chat serve --print-config NAME`.

The clients were run with these settings, see docs/server.md; names of variables and fields are
theirs.
"""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from cli.environment import KEY_VARIABLE
from cli.serve.to_paste import ToPaste

NO_KEY: Final = "local"
"""What clients send that insist on a key where the server asks for none."""

_LONGEST_REPLY = 32_768
_EVERY_HOST = ("", "0.0.0.0", "::")


@dataclass(frozen=True)
class ServerAddress:
    """Where a server answers, as its clients have to know it."""

    host: str
    port: int
    model: str
    """The name that requests give."""
    key: str = ""
    """What opens the server; "" where nothing has to."""
    context: int | None = None
    """Tokens of prompt and reply that memory allows, where that is known."""

    @property
    def url(self) -> str:
        """Without a path; one that serves every host as its own machine reaches it."""
        host = "127.0.0.1" if self.host in _EVERY_HOST else self.host
        return f"http://{f'[{host}]' if _is_ipv6(host) else host}:{self.port}"

    @property
    def openai_url(self) -> str:
        """Where clients of OpenAI's API look."""
        return f"{self.url}/v1"

    @property
    def sent_key(self) -> str:
        """What clients send in the place of a key."""
        return self.key or NO_KEY


def client_config(client: str, server: ServerAddress) -> ToPaste:
    """What to paste for `client`, one of CLIENTS."""
    paste = _CONFIGS[client](server)
    if server.host not in _EVERY_HOST:
        return paste
    note = "On another machine write this one's name or address in the place of 127.0.0.1."
    return ToPaste(paste.text, (*paste.notes, note))


def _claude(server: ServerAddress) -> ToPaste:
    # The three names are what it asks for by size: titles, sub-agents, plans.
    sizes = {
        f"ANTHROPIC_DEFAULT_{size}_MODEL": server.model for size in ("HAIKU", "SONNET", "OPUS")
    }
    text = _exports(
        ANTHROPIC_BASE_URL=server.url,
        ANTHROPIC_AUTH_TOKEN=server.sent_key,
        ANTHROPIC_MODEL=server.model,
        **sizes,
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
    )
    return ToPaste(text, ("Paste into the shell, or its profile, then start: claude",))


def _codex(server: ServerAddress) -> ToPaste:
    model: dict[str, Any] = {"model": server.model, "model_provider": "dsv4"}
    if server.context is not None:
        model["model_context_window"] = server.context
    provider = {"name": "dsv4-chat", "base_url": server.openai_url, "wire_api": "responses"}
    if server.key:
        provider["env_key"] = KEY_VARIABLE
    lines = [*_toml(model), "", "[model_providers.dsv4]", *_toml(provider)]
    notes = ["Write into ~/.codex/config.toml, the first lines above all tables, then start: codex"]
    return ToPaste("\n".join(lines) + "\n", (*notes, *_exported_key(server)))


def _opencode(server: ServerAddress) -> ToPaste:
    model: dict[str, Any] = {"name": server.model}
    if server.context is not None:
        model["limit"] = {"context": server.context, "output": _longest_reply(server.context)}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "dsv4-chat",
        "options": {
            "baseURL": server.openai_url,
            "apiKey": f"{{env:{KEY_VARIABLE}}}" if server.key else NO_KEY,
        },
        "models": {server.model: model},
    }
    name = f"dsv4/{server.model}"
    content = {
        "$schema": "https://opencode.ai/config.json",
        "provider": {"dsv4": provider},
        "model": name,
        "small_model": name,
    }
    notes = ["Write into ~/.config/opencode/opencode.json, then start: opencode"]
    return ToPaste(_json(content), (*notes, *_exported_key(server)))


def _qwen(server: ServerAddress) -> ToPaste:
    text = _exports(
        OPENAI_BASE_URL=server.openai_url,
        OPENAI_API_KEY=server.sent_key,
        OPENAI_MODEL=server.model,
    )
    start = "qwen --auth-type openai"
    return ToPaste(text, (f"Paste into the shell, or its profile, then start: {start}",))


def _pi(server: ServerAddress) -> ToPaste:
    model: dict[str, Any] = {"id": server.model, "reasoning": True}
    if server.context is not None:
        model["contextWindow"] = server.context
        model["maxTokens"] = _longest_reply(server.context)
    provider = {
        "baseUrl": server.openai_url,
        "api": "openai-completions",
        "apiKey": server.sent_key,
        "models": [model],
    }
    start = shlex.join(["pi", "--provider", "dsv4", "--model", server.model])
    note = f"Write into ~/.pi/agent/models.json, then start: {start}"
    return ToPaste(_json({"providers": {"dsv4": provider}}), (note,))


def _aider(server: ServerAddress) -> ToPaste:
    text = _exports(
        OPENAI_API_BASE=server.openai_url,
        OPENAI_API_KEY=server.sent_key,
        AIDER_MODEL=f"openai/{server.model}",
        # Otherwise a library of it asks a site for a list of prices at each start.
        LITELLM_LOCAL_MODEL_COST_MAP="True",
    )
    return ToPaste(text, ("Paste into the shell, or its profile, then start: aider",))


_CONFIGS: dict[str, Callable[[ServerAddress], ToPaste]] = {
    "claude": _claude,
    "codex": _codex,
    "opencode": _opencode,
    "qwen": _qwen,
    "pi": _pi,
    "aider": _aider,
}
CLIENTS = tuple(_CONFIGS)


def _exports(**variables: str) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def _toml(values: dict[str, Any]) -> list[str]:
    # JSON's texts and whole numbers are TOML's, but for one character that JSON leaves as it is.
    return [
        f"{name} = {json.dumps(value)}".replace("\x7f", "\\u007f") for name, value in values.items()
    ]


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _exported_key(server: ServerAddress) -> tuple[str, ...]:
    if not server.key:
        return ()
    line = _exports(**{KEY_VARIABLE: server.key}).strip()
    return (f"It reads the key from the shell: {line}",)


def _longest_reply(context: int) -> int:
    """What a client may ask for at a time, so that the most of the context is left to prompts."""
    return min(_LONGEST_REPLY, context // 4)


def _is_ipv6(host: str) -> bool:
    try:
        return ip_address(host).version == 6
    except ValueError:
        return False
