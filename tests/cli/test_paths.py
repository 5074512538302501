"""Paths as people and systems spell them: any bytes, and ~ wherever a path stands."""

import io
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.app import main
from cli.environment import Environment, _process_output
from tests.cli.running import Stream
from tests.cli.scripted import opening, write_chat_folder

NAMES = [
    b"other-\xff",
    b"\xfe\xff",
    "Grüße".encode("latin-1"),
    b"a\xed\xa0\x80b",
    b"two\nlines\x1b[2J",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(params=NAMES, ids=ascii)
def odd(request: pytest.FixtureRequest, tmp_path: Path, model: Path) -> Path:
    """A folder with such a name, a model and a text in it."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + request.param))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    shutil.copytree(model, folder / "model")
    (folder / "text.txt").write_text("some text\n")
    script = {"replies": ["Yes.", "No."]}
    (folder / "script.json").write_text(json.dumps(script))
    return folder


class Process:
    """A run on streams as a process has them: UTF-8, whatever is written."""

    def __init__(self, *arguments: str | Path, typed: str = "", home: Path) -> None:
        self._out, self._err = io.BytesIO(), io.BytesIO()
        variables = {"DSV4_HOME": str(home), "TERM": "dumb"}
        environment = Environment(
            Stream(typed, terminal=bool(typed)), _stream(self._out), _stream(self._err), variables
        )
        words = [str(argument) for argument in arguments]
        self.status = main(words, environment=environment, open_model=opening("</think>Yes."))
        environment.stdout.flush()
        environment.stderr.flush()
        self.stdout, self.stderr = self._out.getvalue(), self._err.getvalue()

    @property
    def said(self) -> str:
        return (self.stdout + self.stderr).decode()  # whatever was named, it is UTF-8


def _stream(binary: io.BytesIO) -> io.TextIOWrapper:
    stream = _process_output(io.TextIOWrapper(binary, encoding="utf-8"))
    assert isinstance(stream, io.TextIOWrapper)
    return stream


def model_there(odd: Path) -> Process:
    return Process("--model", odd / "model", "-p", "x", home=odd / "home")


def model_missing(odd: Path) -> Process:
    return Process("--model", odd / "none", "-p", "x", home=odd / "home")


def model_as_json(odd: Path) -> Process:
    return Process("--model", odd / "none", "-p", "x", "--json", home=odd / "home")


def script(odd: Path) -> Process:
    return Process("--engine", f"fake:{odd / 'script.json'}", "-p", "x", home=odd / "home")


def script_missing(odd: Path) -> Process:
    return Process("--engine", f"fake:{odd / 'none.json'}", "-p", "x", home=odd / "home")


def attached(odd: Path) -> Process:
    return Process("--model", odd / "model", f'@"{odd / "text.txt"}"', home=odd / "home")


def attached_missing(odd: Path) -> Process:
    return Process("--model", odd / "model", f'@"{odd / "none.txt"}"', home=odd / "home")


def doctor(odd: Path) -> Process:
    return Process("doctor", "--model", odd / "none", home=odd / "home")


def doctor_as_json(odd: Path) -> Process:
    return Process("doctor", "--json", "--model", odd / "none", home=odd / "home")


def talk(odd: Path) -> Process:
    typed = "one\n/sessions\n/model\n/rename mine\n/quit\n"
    return Process("--model", odd / "model", typed=typed, home=odd / "home")


def talk_goes_on(odd: Path) -> Process:
    talk(odd)
    again = Process("--model", odd / "model", "--continue", "-p", "two", home=odd / "home")
    assert b"Yes." in again.stdout
    return again


def exports(odd: Path) -> Process:
    before = Path.cwd()
    os.chdir(odd)
    try:
        typed = "one\n/export a.md\n/export a.md\ny\n/export none/a.md\n"
        done = Process("--model", "model", typed=typed, home=odd / "home")
    finally:
        os.chdir(before)
    assert "Yes." in (odd / "a.md").read_text()
    return done


USES = {
    model_there: 0, model_missing: 1, model_as_json: 1, script: 0, script_missing: 2,
    attached: None, attached_missing: None, doctor: 1, doctor_as_json: 1, talk: 0, talk_goes_on: 0,
    exports: 0,
}  # fmt: skip


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_paths_of_any_bytes_work_or_are_refused_in_a_sentence(
    odd: Path, use: Callable[[Path], Process], model: Path
) -> None:
    done = use(odd)
    expected = USES[use]
    assert done.status in ((0, 1, 2) if expected is None else (expected,))
    assert "\x1b" not in done.said and "Traceback" not in done.said
    if done.status and "json" not in use.__name__:
        assert done.said.count("dsv4-chat: ") <= 1
    if use is doctor_as_json or use is model_as_json:
        json.loads(done.stdout.splitlines()[-1])


def test_another_program_gets_the_very_bytes_of_a_path(odd: Path) -> None:
    done = Process("config", "--path", home=odd)
    assert done.stdout == os.fsencode(odd) + b"/config.toml\n"


# A tilde


@pytest.fixture
def ada(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    return tmp_path


def by_model(path: str, home: Path) -> Process:
    return Process("--model", path, "-p", "x", home=home)


def by_engine(path: str, home: Path) -> Process:
    return Process("--engine", f"fake:{path}/script.json", "-p", "x", home=home)


def by_configuration(path: str, home: Path) -> Process:
    (home / "config.toml").write_text(f'model = "{path}"\n')
    return Process("-p", "x", home=home)


def by_command(path: str, home: Path) -> Process:
    return Process("--model", home / "there", typed=f"/model {path}\nx\n", home=home)


def by_export(path: str, home: Path) -> Process:
    return Process("--model", home / "there", typed=f"x\n/export {path}/a.md\n", home=home)


def by_attachment(path: str, home: Path) -> Process:
    return Process("--model", home / "there", f"@{path}/text.txt", home=home)


def by_home(path: str, home: Path) -> Process:
    return Process("--model", home / "there", typed="x\n", home=Path(path))


WAYS = (by_model, by_engine, by_configuration, by_command, by_export, by_attachment, by_home)


@pytest.mark.parametrize(
    ("way", "path"),
    list(itertools.product(WAYS, ("~/there", "~nobody-of-this-name/there", "~/miss~ing"))),
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_tilde_is_a_home_folder_or_a_sentence_and_never_a_name(
    ada: Path, model: Path, way: Callable[[str, Path], Process], path: str
) -> None:
    shutil.copytree(model, ada / "there")
    (ada / "there" / "text.txt").write_text("some text\n")
    (ada / "there" / "script.json").write_text('{"replies": ["Yes."]}')
    done = way(path, ada)
    if path == "~/there":
        assert (done.status, "Yes." in done.said) == (0, True)
        assert "dsv4-chat: " not in done.said
    else:
        assert done.status or "~" in done.said or way is by_home
    assert not list(Path("/").glob("~*"))
    assert "Traceback" not in done.said
