"""The coding agents that `make agents` runs: what to install, how to start them without a screen,
and what their tool for commands is called."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Call = dict[str, Any]
MODEL = "DeepSeek-V4-Flash"


@dataclass(frozen=True)
class Agent:
    """One of them. `config` is the client of `--print-config`, and `paste` the file below HOME that
    its text goes to; "" where a shell reads it."""

    config: str
    title: str
    package: str
    version: str
    program: str
    arguments: tuple[str, ...]
    """Those before the task."""
    call: Callable[[str], Call]
    """The call that runs a command, as the model writes it."""
    paste: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What keeps it from asking the internet."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Files below HOME beside the pasted one, by their paths."""
    canned: int = 0
    """Answers that it puts into the model's mouth before the first question."""


def _shell(name: str, **more: Any) -> Callable[[str], Call]:
    return lambda command: {"name": name, "arguments": {"command": command, **more}}


def _codex_shell(command: str) -> Call:
    return {"name": "exec_command", "arguments": {"cmd": command}}


AGENTS = (
    Agent(
        "claude",
        "Claude Code",
        "@anthropic-ai/claude-code",
        "2.1.197",
        "claude",
        ("--allowedTools", "Bash", "--output-format", "stream-json", "--verbose", "-p"),
        _shell("Bash", description="Works on a file."),
        variables={"DISABLE_AUTOUPDATER": "1", "DISABLE_TELEMETRY": "1"},
    ),
    Agent(
        "codex",
        "Codex",
        "@openai/codex",
        "0.171.0",
        "codex",
        ("exec", "--skip-git-repo-check", "-s", "danger-full-access", "--json"),
        _codex_shell,
        paste=".codex/config.toml",
    ),
    Agent(
        "opencode",
        "opencode",
        "opencode-ai",
        "1.18.33",
        "opencode",
        ("run", "--format", "json"),
        _shell("bash", description="Works on a file."),
        paste=".config/opencode/opencode.json",
        variables={
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
        },
    ),
    Agent(
        "qwen",
        "Qwen Code",
        "@qwen-code/qwen-code",
        "0.15.10",
        "qwen",
        ("--auth-type", "openai", "--yolo", "-p"),
        _shell("run_shell_command", is_background=False),
        variables={"QWEN_TELEMETRY_ENABLED": "false"},
        files={".qwen/settings.json": '{"privacy": {"usageStatisticsEnabled": false}}'},
        canned=1,
    ),
    Agent(
        "pi",
        "pi",
        "@mariozechner/pi-coding-agent",
        "0.73.1",
        "pi",
        ("--provider", "dsv4", "--model", MODEL, "--mode", "json", "-p"),
        _shell("bash"),
        paste=".pi/agent/models.json",
        variables={"PI_OFFLINE": "1", "PI_SKIP_VERSION_CHECK": "1"},
    ),
)
