"""The two variables that lengthen MLX's command buffers: where they are set, and where not."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.show.screen.editor import edited
from cli.talk.clipboard import copy
from cli.tools import shell
from dsv4_mlx.device import command_buffers
from dsv4_mlx.device.command_buffers import LIMITS, CommandBuffers, current, inherited, set_limits

OPS, ELEMENTS = LIMITS
LARGE = 64 << 30
NAMES = " ".join(LIMITS)


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has set nothing, and no variables of a person's."""
    monkeypatch.setattr(command_buffers, "_set", CommandBuffers({}))
    for name in LIMITS:
        monkeypatch.setenv(name, "")  # so that whatever a test leaves goes with it
        monkeypatch.delenv(name)


def on_a_mac(variables: dict[str, str], memory: int = LARGE, late: bool = False) -> CommandBuffers:
    return set_limits(variables, system="darwin", memory=memory, is_late=late)


def test_a_large_mac_gets_both() -> None:
    variables: dict[str, str] = {}
    found = on_a_mac(variables)
    assert variables == {OPS: "100", ELEMENTS: "100000"}
    assert found.ours == {*LIMITS} and not found.is_late
    assert (
        found.sentence() == f"command buffers: {OPS}=100 (set here), {ELEMENTS}=100000 (set here)"
    )
    assert on_a_mac(variables) == found


def test_memory_alone_decides_and_32_gb_are_enough() -> None:
    small: dict[str, str] = {}
    assert on_a_mac(small, memory=24 << 30).values == {} and small == {}
    assert on_a_mac({}, memory=32 << 30).ours == {*LIMITS}


def test_no_other_system_gets_them() -> None:
    variables: dict[str, str] = {}
    assert set_limits(variables, system="linux", memory=LARGE).values == {}
    assert variables == {}
    assert current(variables).sentence() == "command buffers as MLX limits them by itself"


def test_what_the_person_set_stays() -> None:
    variables = {OPS: "7"}
    found = on_a_mac(variables)
    assert variables == {OPS: "7", ELEMENTS: "100000"}
    assert found.sentence() == f"command buffers: {OPS}=7 (yours), {ELEMENTS}=100000 (set here)"
    assert inherited(variables) == {OPS: "7"}


def test_a_process_that_had_mlx_before_is_told() -> None:
    told = on_a_mac({}, late=True).sentence()
    assert told.endswith("so they may not hold: import dsv4_mlx first")
    assert "may not hold" not in on_a_mac({OPS: "7", ELEMENTS: "8"}, late=True).sentence()


def test_a_value_that_somebody_changed_since_is_theirs() -> None:
    variables: dict[str, str] = {}
    on_a_mac(variables)
    variables[OPS] = "9"
    assert current(variables).ours == {ELEMENTS}
    assert inherited(variables) == {OPS: "9"}


COMMAND = [sys.executable, "-c"]
MAC = """
import os, sys
from dsv4_mlx.device import command_buffers
command_buffers.sys = type("Mac", (), {"platform": "darwin", "modules": sys.modules})
command_buffers.physical_memory = lambda: 64 << 30
"""


def printed(code: str, **variables: str) -> list[str]:
    """The words that `code` prints in a process of its own, on what it takes for a Mac."""
    done = subprocess.run(
        [*COMMAND, MAC + code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **variables},
        cwd=Path(__file__).parents[2],
    )
    return done.stdout.split()


VALUES = f"print(*[os.environ.get(name) for name in {[*LIMITS]}])\n"


def test_they_are_set_before_mlx_is_loaded_and_not_sooner() -> None:
    watch = f"""
class Watch:
    def find_spec(self, name, path, target=None):
        if name == "mlx.core":
            {VALUES}
{VALUES}
sys.meta_path.insert(1, Watch())
import mlx.core
"""
    assert printed(watch) == ["None", "None", *LIMITS.values()]
    assert printed(watch, **{OPS: "7"}) == ["7", "None", "7", LIMITS[ELEMENTS]]


def test_a_process_that_loaded_mlx_first_sets_them_and_knows() -> None:
    again = "import mlx.core\nfrom dsv4_mlx import before_mlx\nbefore_mlx.sys = sys\n"
    code = f"""
import importlib
for finder in [one for one in sys.meta_path if type(one).__name__ == "_BeforeMlx"]:
    sys.meta_path.remove(finder)
{again}before_mlx.precede_mlx()
{VALUES}
print(command_buffers.current().is_late)
"""
    assert printed(code) == [*LIMITS.values(), "True"]


def by_command(folder: Path) -> str:
    return shell.run(f"for n in {NAMES} KEPT; do printenv $n; done; true", folder).text


def by_editor(folder: Path) -> str:
    script = folder / "editor"
    script.write_text(f'#!/bin/sh\nfor n in {NAMES} KEPT; do printenv $n; done > "$1"; true\n')
    script.chmod(0o700)
    return edited("", {"EDITOR": str(script)}) or ""


def by_clipboard(folder: Path) -> str:
    tool = folder / "pbcopy"
    tool.write_text(
        f"#!/bin/sh\ncat > /dev/null\nfor n in {NAMES} KEPT; do printenv $n; done > {folder}/seen\n"
    )
    tool.chmod(0o700)
    copy("text", os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "SSH_CONNECTION": ""})
    return (folder / "seen").read_text()


@pytest.mark.parametrize("started", [by_command, by_editor, by_clipboard])
def test_programs_that_we_start_inherit_none_of_ours(
    started: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEPT", "yes")
    for name in LIMITS:
        monkeypatch.setenv(name, "1")  # the person's own, inherited as ever
    assert started(tmp_path).split() == ["1", "1", "yes"]
    for name in LIMITS:
        monkeypatch.delenv(name)
    set_limits(system="darwin", memory=LARGE)
    assert os.environ[OPS] == LIMITS[OPS]
    assert started(tmp_path).split() == ["yes"]


@pytest.mark.needs("mcp")
def test_servers_get_a_few_variables_and_none_of_ours() -> None:
    from mcp.client.stdio import get_default_environment

    set_limits(system="darwin", memory=LARGE)
    assert os.environ[OPS] == LIMITS[OPS]
    assert not {*get_default_environment()} & {*LIMITS}
