"""Units of services: they parse, start the same program with absolute paths, and hold no key."""

import plistlib
import re
from collections.abc import Callable, Mapping
from configparser import ConfigParser
from pathlib import Path

import pytest

from cli.serve.chores import LOOK_S
from cli.serve.running import CLOSE_S, GRACE_S
from cli.serve.service_unit import SERVICES, program_in_use, service_unit, unit_arguments
from dsv4_mlx.errors import UsageError

PROGRAM = ("/opt/dsv4/bin/dsv4-chat",)
HOME = Path("/home/ada")
LINE = "serve --model models/flash --port 8181 --api-key-file=key --warm w.json --print-service x"
WORDS = [
    "serve",
    "--model",
    "/srv/models/flash",
    "--port",
    "8181",
    "--api-key-file=/srv/key",
    "--warm",
    "/srv/w.json",
]


def unit(kind: str, line: list[str], variables: Mapping[str, str] | None = None) -> str:
    given = {"DSV4_HOME": "/data/my dsv4"} if variables is None else variables
    return service_unit(
        kind, line, program=PROGRAM, variables=given, folder=Path("/srv"), home=HOME
    ).text


def read_systemd(text: str) -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    return parser


def words(command: str) -> list[str]:
    """A command as systemd reads it: words in quotes, with what escapes in them undone."""
    found = re.findall(r'"((?:[^"\\]|\\.)*)"', command)
    undone = (re.sub(r"\\(.)", lambda m: m[1].replace("n", "\n"), text) for text in found)
    return [text.replace("$$", "$").replace("%%", "%") for text in undone]


@pytest.mark.parametrize("kind", SERVICES)
def test_a_unit_is_what_the_page_shows(kind: str, golden: Callable[[str, str], None]) -> None:
    golden(f"serve/service-{kind}.txt", unit(kind, LINE.split()))


def test_launchd_starts_the_program_with_absolute_paths() -> None:
    read = plistlib.loads(unit("launchd", LINE.split()).encode())
    assert read["ProgramArguments"] == [*PROGRAM, *WORDS]
    assert read["EnvironmentVariables"] == {"DSV4_HOME": "/data/my dsv4"}
    assert read["KeepAlive"] == {"SuccessfulExit": False}
    assert read["StandardErrorPath"] == "/home/ada/Library/Logs/dsv4-chat.log"


def test_launchd_reads_every_key_as_what_it_is() -> None:
    """Keys, their types and values as launchd.plist(5) has them; it passes over what it does not
    know, and what has another type."""
    paste = service_unit(
        "launchd", LINE.split(), program=PROGRAM, variables={}, folder=Path("/srv"), home=HOME
    )
    read = plistlib.loads(paste.text.encode())
    assert {key: type(value) for key, value in read.items()} == {
        "Label": str,
        "ProgramArguments": list,
        "EnvironmentVariables": dict,
        "RunAtLoad": bool,
        "KeepAlive": dict,
        "ThrottleInterval": int,
        "ProcessType": str,
        "ExitTimeOut": int,
        "WorkingDirectory": str,
        "StandardOutPath": str,
        "StandardErrorPath": str,
    }
    assert all(type(word) is str for word in read["ProgramArguments"])
    assert read["KeepAlive"]["SuccessfulExit"] is False and read["RunAtLoad"] is True
    assert read["ProcessType"] in ("Background", "Standard", "Adaptive", "Interactive")
    paths = [read[f"Standard{name}Path"] for name in ("Out", "Error")]
    for path in (read["ProgramArguments"][0], read["WorkingDirectory"], *paths):
        assert Path(path).is_absolute() and "~" not in path  # which launchd expands nowhere
    # A job is named by its file, and found by its label.
    assert f"LaunchAgents/{read['Label']}.plist" in paste.notes[0]
    assert f"bootout gui/$(id -u)/{read['Label']};" in paste.notes[1]
    assert read["ExitTimeOut"] > GRACE_S + LOOK_S + CLOSE_S  # then it kills


def test_systemd_starts_the_program_with_absolute_paths() -> None:
    read = read_systemd(unit("systemd", LINE.split()))
    assert words(read["Service"]["ExecStart"]) == [*PROGRAM, *WORDS]
    assert words(read["Service"]["Environment"]) == ["DSV4_HOME=/data/my dsv4"]
    assert read["Service"]["RestartPreventExitStatus"] == "2"
    assert read["Install"]["WantedBy"] == "default.target"


@pytest.mark.parametrize("text", ["two words", 'a "quote"', "back\\slash", "$HOME", "100%", "a\nb"])
def test_any_text_is_one_word_of_a_unit(text: str) -> None:
    line = ["serve", "--system", text]
    read = read_systemd(unit("systemd", line, {}))
    assert words(read["Service"]["ExecStart"]) == [*PROGRAM, *line]
    assert plistlib.loads(unit("launchd", line, {}).encode())["ProgramArguments"][1:] == line


@pytest.mark.parametrize("kind", SERVICES)
def test_a_key_of_the_environment_is_refused_unless_a_file_holds_one(kind: str) -> None:
    variables = {"DSV4_API_KEY": "s3cret"}
    with pytest.raises(UsageError, match=r"A unit holds no key .* --api-key-file FILE"):
        unit(kind, ["serve"], variables)
    assert "s3cret" not in unit(kind, ["serve", "--api-key-file", "k"], variables)


def test_the_option_that_prints_a_unit_is_not_in_it() -> None:
    for line in (["serve", "--print-service", "systemd"], ["serve", "--print-service=launchd"]):
        assert unit_arguments(line, Path("/w")) == ["serve"]


def test_a_script_in_the_place_of_a_model_is_found_from_anywhere() -> None:
    assert unit_arguments(["serve", "--engine", "fake:a.json"], Path("/w"))[-1] == "fake:/w/a.json"


def test_the_program_is_named_by_the_file_that_runs(tmp_path: Path) -> None:
    script = tmp_path / "dsv4-chat"
    script.touch(0o755)
    assert program_in_use(str(script)) == (str(script),)
    python, *rest = program_in_use("/somewhere/cli/__main__.py")
    assert Path(python).is_absolute() and rest == ["-P", "-m", "cli"]
