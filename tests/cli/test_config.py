"""The configuration file: the printed defaults, where it is, and what wrong entries say."""

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from cli.config import (
    Config,
    commented,
    config_path,
    load,
    parsed,
    print_config,
)
from cli.config_servers import Server
from cli.config_settings import SETTINGS
from cli.environment import Environment
from dsv4_mlx.errors import UsageError
from tests.cli.running import Stream

FILE = Path("config.toml")


def environment(**variables: str) -> Environment:
    return Environment(Stream(), Stream(), Stream(), variables)


def test_all_lines_uncommented_are_the_defaults() -> None:
    text = re.sub(r"^#(?=\S)", "", commented(), flags=re.MULTILINE)
    assert text.count(" = ") - commented().count("#   ") >= len(SETTINGS)
    assert parsed(text, FILE) == Config()


def test_every_setting_is_in_the_file_with_one_line_about_it() -> None:
    assert {setting.field for setting in SETTINGS} | {"servers"} == {f.name for f in fields(Config)}
    lines = commented().splitlines()
    for setting in SETTINGS:
        place = lines.index(f"#{setting.key} = {setting.default}")
        assert lines[place - 1] == f"# {setting.help}"
        assert lines[place + 1] == ""


def test_the_example_of_a_server_is_one() -> None:
    example = "\n".join(line[1:] for line in commented().splitlines() if line.startswith("#   "))
    (server,) = parsed(example, FILE).servers
    assert server == Server(
        "notes", "notes-server", ("--folder", "/home/me/notes"), (("NOTES_TOKEN", "secret"),)
    )


def test_no_file_means_the_defaults(tmp_path: Path) -> None:
    assert load(environment(DSV4_HOME=str(tmp_path / "missing"))) == Config()


def test_what_the_file_says_replaces_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        'theme = "light"\ntemperature = 0\nbudget = 2000\nsession_budget = "1.5 GiB"\n'
        'model = "/models/flash"\ntools = true\n',
        encoding="utf-8",
    )
    assert load(environment(DSV4_HOME=str(tmp_path))) == replace(
        Config(),
        theme="light",
        temperature=0.0,
        budget=2000,
        session_kv_bytes=3 << 29,
        model=Path("/models/flash"),
        tools=True,
    )


@pytest.mark.parametrize(
    ("variables", "path"),
    [
        ({"DSV4_HOME": "/d", "XDG_CONFIG_HOME": "/x", "HOME": "/h"}, "/d/config.toml"),
        ({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}, "/x/dsv4/config.toml"),
        ({"XDG_CONFIG_HOME": "x", "HOME": "/h"}, "/h/.config/dsv4/config.toml"),
        ({"HOME": "/h"}, "/h/.config/dsv4/config.toml"),
    ],
)
def test_where_the_file_is(variables: dict[str, str], path: str) -> None:
    assert config_path(environment(**variables)) == Path(path)


def test_the_command_prints_the_file_or_its_path() -> None:
    here = environment(DSV4_HOME="/d")
    assert (print_config(here), print_config(here, path=True)) == (0, 0)
    assert isinstance(here.stdout, Stream)
    assert here.stdout.getvalue() == commented() + "/d/config.toml\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "theme = ",
            "config.toml is not valid TOML (Invalid value (at end of document)); correct it.",
        ),
        ("thema = 1", "config.toml: 'thema' is no setting; the settings are model, theme,"),
        ("theme = 'red'", "config.toml: theme must be auto, dark, light or plain, found 'red'."),
        ("theme = 1", "config.toml: theme must be auto, dark, light or plain, found 1."),
        ("tools = 1", "config.toml: tools must be true or false, found 1."),
        ("temperature = true", "config.toml: temperature must be auto or a number from 0 on"),
        ("temperature = nan", "config.toml: temperature must be auto or a number from 0 on"),
        ("top_p = 0", "config.toml: top_p must be auto or a number above 0, at most 1, found 0."),
        ("top_p = 5e-400", "config.toml: top_p must be auto or a number above 0, at most 1"),
        ("top_k = 1.0", "config.toml: top_k must be auto or a whole number from 0 on, found 1.0."),
        (
            f"top_k = {2**63}",
            f"config.toml: top_k must be auto or a whole number from 0 to {2**63 - 1}, found",
        ),
        ("min_p = 2", "config.toml: min_p must be auto or a number from 0 to 1, found 2."),
        ("repetition_penalty = 0", "config.toml: repetition_penalty must be auto or a number ab"),
        ("max_tokens = 0", "config.toml: max_tokens must be unlimited or a whole number from 1"),
        ("budget = 1.5", "config.toml: budget must be unlimited or a whole number from 0 on"),
        ("session_budget = 5", 'config.toml: session_budget must be a size like "20 GB"'),
        ("prefix_budget = '5 cows'", 'config.toml: prefix_budget must be a size like "20 GB"'),
        ("prefix_budget = 'inf GB'", 'config.toml: prefix_budget must be a size like "20 GB"'),
        ("model = ['a']", "config.toml: model must be a folder's path, found ['a']."),
        ("mcp = 3", "config.toml: mcp holds one table for each server, such as [mcp.notes]."),
        ("[mcp.a]\nargs = []", "config.toml: mcp.a needs a command, the program to start."),
        ("[mcp.a]\nurl = 'x'", "config.toml: mcp.a has the unknown setting 'url'; it may have"),
        ("[mcp.a]\nargs = [1]", "config.toml: mcp.a.args must be a list of texts, found [1]."),
        ("[mcp.a]\ntimeout_s = 0", "config.toml: mcp.a.timeout_s must be a number of seconds"),
        ("[mcp.'a b']\ncommand = 'x'", "config.toml: the name of an MCP server has at most 32"),
    ],
)
def test_a_wrong_entry_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        parsed(text, FILE)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize("text", ["20 GB", "20GB", " 20  gb ", "20.0Gb", "2e1 GB", "20000 MB"])
def test_a_size_is_written_with_or_without_a_space(text: str) -> None:
    assert parsed(f"session_budget = '{text}'", FILE).session_kv_bytes == 20 * 10**9


@pytest.mark.parametrize("text", ["20", "GB", "-1 GB", "nan GB", "1 2 GB", "1e999 GB", "..GB", ""])
def test_what_is_no_size_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="session_budget must be a size like"):
        parsed(f"session_budget = '{text}'", FILE)


def test_a_file_that_is_no_text_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"theme = '\xff'")
    with pytest.raises(UsageError, match=r"is no UTF-8 text \(byte 9\); correct it"):
        load(environment(DSV4_HOME=str(tmp_path)))


def test_a_home_that_cannot_be_entered_leaves_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `sudo -u` leaves somebody else's HOME; root may enter it, so the refusal is imitated."""

    def closed(path: Path, most_bytes: int) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("cli.config.content_of", closed)
    around = environment(HOME=str(tmp_path))
    (tmp_path / ".config" / "dsv4").mkdir(parents=True)
    with pytest.raises(UsageError, match="Permission denied"):
        load(around)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert load(around) == Config()
    said = around.stderr.getvalue()  # type: ignore[attr-defined]
    assert "cannot be reached: Permission denied; defaults hold" in said


@pytest.mark.parametrize("value", ["~nobody-of-this-name/x", "~nobody-of-this-name"])
@pytest.mark.parametrize(
    "text", ['model = "{}"', '[mcp.notes]\ncommand = "{}"'], ids=["model", "mcp"]
)
def test_the_home_of_nobody_is_named_with_file_and_key(text: str, value: str) -> None:
    with pytest.raises(UsageError, match=r"/config\.toml: (model|mcp\.notes\.command): .*~nobody"):
        parsed(text.format(value), Path("/config.toml"))


def test_a_tilde_is_the_home_folder_wherever_a_path_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    text = 'model = "~/m"\n[mcp.notes]\ncommand = "~/bin/notes"\nargs = ["~/notes"]\n'
    found = parsed(text, Path("/config.toml"))
    assert found.model == Path("/home/ada/m")
    assert found.servers[0].command == "/home/ada/bin/notes"
    assert found.servers[0].arguments == ("~/notes",), "what is no path of ours stays"
