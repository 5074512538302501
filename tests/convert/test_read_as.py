"""What a source is read as goes into the result, which may be called anything."""

import json
import shutil
from concurrent.futures import Future
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from cli.opened_model import OpenedModel
from convert.app import main
from convert.fetch import fetch
from convert.progress import ProgressDisplay
from convert.texts import read_text
from dsv4_mlx.chat import detect_effort_table
from dsv4_mlx.chat.settings import ChatSettings
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.release.identity import name_of
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE, open_folder
from tests.convert.small import SMALL, contents
from tests.convert.test_fetch import FolderHub
from tests.examples import examples

APRIL, JULY = "2026-04", "2026-07-31"
RELEASES = {
    "DeepSeek-V4-Flash": APRIL,
    "DeepSeek-V4-Pro": APRIL,
    "DeepSeek-V4-Flash-Base": APRIL,
    "DeepSeek-V4-Flash-DSpark": APRIL,
    "DeepSeek-V4-Flash-0731": JULY,
}
NAMES = st.sampled_from(
    ["converted", "model", "backup-0731", "V4-Flash-mlx", "DeepSeek-V4-Flash-0731-q4", "c0ffee",
     "DeepSeek-V4-Pro"]
)  # fmt: skip
ENCODERS = {
    APRIL: "MAX = 'Reasoning Effort: Absolute maximum'",
    JULY: "MAX = 'Reasoning Effort: Beyond maximum'",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("files"), SMALL)


def in_a_folder(files: Path, root: Path, release: str) -> Path:
    return shutil.copytree(files, root / release)


def behind_a_link(files: Path, root: Path, release: str) -> Path:
    (root / "model").symlink_to(shutil.copytree(files, root / release))
    return root / "model"


def in_a_cache(files: Path, root: Path, release: str) -> Path:
    cache = root / f"models--deepseek-ai--{release}" / "snapshots"
    return shutil.copytree(files, cache / "0123456789abcdef")


def fetched(files: Path, root: Path, release: str) -> Path:
    fetch(f"somebody/{release}-copy", root / "model", ProgressDisplay(), FolderHub(files))
    return root / "model"


PLACES = st.sampled_from([in_a_folder, behind_a_link, in_a_cache, fetched])


@examples(8, slow=24, suppress_health_check=list(HealthCheck))
@given(release=st.sampled_from(list(RELEASES)), place=PLACES, name=NAMES, other=NAMES,
       resumed=st.booleans())  # fmt: skip
def test_a_conversion_keeps_what_its_source_is(
    release, place, name, other, resumed, files, tmp_path_factory, capsys
):
    """Wherever the source lies, however the result and its copies are called."""
    root = tmp_path_factory.mktemp("root")
    source = place(files, root, release)
    assert detect_effort_table(source) == RELEASES[release]
    out = root / "results" / name
    assert main([str(source), str(out), *["--resume"] * resumed]) == 0
    moved = shutil.copytree(out, root / "copies" / other)
    shutil.rmtree(source.resolve())
    for folder in (out, moved):
        assert detect_effort_table(folder) == RELEASES[release]
        capsys.readouterr()
        assert main(["inspect", str(folder), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["release"] == release
        assert facts["effort_table"] == {"table": RELEASES[release], "known_by": "name"}
    assert (out / "CARD.md").read_text().startswith(f"# {release}, recipe native")
    assert main(["verify", str(moved)]) == 0


@pytest.mark.parametrize("name", ["Model-0731", "V4-Flash-0731"])
@pytest.mark.parametrize("table", ENCODERS)
def test_the_encoder_is_asked_before_any_name(table, name, files, tmp_path):
    source = shutil.copytree(files, tmp_path / name)
    (source / "encoding").mkdir()
    (source / "encoding" / "encoding_dsv4.py").write_text(ENCODERS[table])
    assert main([str(source), str(tmp_path / "out")]) == 0
    made = json.loads((tmp_path / "out" / CONVERSION_FILE).read_text())
    assert made["effort_table"] == {"table": table, "known_by": "encoder"}
    shutil.rmtree(tmp_path / "out" / "encoding")
    assert detect_effort_table(tmp_path / "out") == table


def test_what_was_assumed_is_said(files, tmp_path, capsys):
    source = shutil.copytree(files, tmp_path / "Model-0731")
    sentence = "effort table 2026-04, assumed, for no encoder"
    assert main([str(source), str(tmp_path / "out"), "--dry-run"]) == 0
    assert sentence in capsys.readouterr().out
    assert main([str(source), str(tmp_path / "out")]) == 0
    assert sentence in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "out")]) == 0
    assert sentence in capsys.readouterr().out
    assert sentence[1:] in (tmp_path / "out" / "CARD.md").read_text()


def test_a_source_that_is_renamed_meanwhile_is_read_as_before(files, tmp_path, monkeypatch):
    source = shutil.copytree(files, tmp_path / "DeepSeek-V4-Flash-0731")

    def stop(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("convert.shards.ShardWriter.write", stop)
        assert main([str(source), str(tmp_path / "out")]) == 1
    source.rename(tmp_path / "moved")
    assert main([str(tmp_path / "moved"), str(tmp_path / "out"), "--resume"]) == 0
    assert detect_effort_table(tmp_path / "out") == JULY


def test_fetching_notes_the_repository(files, tmp_path):
    fetch("somebody/V4", tmp_path / "got", ProgressDisplay(), FolderHub(files))
    noted = json.loads((tmp_path / "got" / "fetched.json").read_text())
    assert noted == {"repository": "somebody/V4", "revision": "0123456789abcdef"}
    assert contents(tmp_path / "got").keys() == {*contents(files), "fetched.json"}


@pytest.mark.parametrize("finished", [False, True])
def test_a_recipe_that_is_renamed_meanwhile_goes_on(finished, files, tmp_path, monkeypatch):
    """Its rules decide, not its name; other rules are refused."""
    rules = '[[matrices]]\nmatch = ["lm_head"]\nbits = {bits}\ngroup_size = 64\n'
    for name, bits in (("own", 4), ("renamed", 4), ("other", 8)):
        (tmp_path / f"{name}.toml").write_text(rules.format(bits=bits))

    def convert(name: str, out: str, *options: str) -> int:
        recipe = str(tmp_path / f"{name}.toml")
        return main([str(files), str(tmp_path / out), "--recipe", recipe, *options])

    assert convert("own", "whole") == 0
    if finished:
        assert convert("own", "out") == 0
    else:
        with monkeypatch.context() as patched:
            patched.setattr("convert.writer.copy_companions", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                convert("own", "out")
    assert convert("other", "out", "--resume") == 2
    assert convert("renamed", "out", "--resume") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_mark_and_the_ends_of_lines_are_no_part_of_a_text(files, tmp_path):
    for name, content in (("plain", b"one\ntwo\n"), ("windows", b"\xef\xbb\xbfone\r\ntwo\r\n")):
        (tmp_path / name).write_bytes(content)
    tokenizer = Tokenizer(files)
    plain, windows = (read_text(tmp_path / name, tokenizer) for name in ("plain", "windows"))
    assert plain.timelines == windows.timelines


@pytest.mark.parametrize(
    ("name", "table", "assumed"),
    [("Model-0731", APRIL, True), ("Model-0731", JULY, False), ("V4-Flash-0731", JULY, False)],
)
def test_the_chat_tells_what_was_assumed(name, table, assumed, files, tmp_path):
    """Not where the person said it or the name of a release does."""
    folder = shutil.copytree(files, tmp_path / name)
    model = OpenedModel(folder, ChatSettings.of(open_folder(folder), table), Future())
    assert model.name == name
    assert bool(model.assumed) is assumed
    assert "effort table 2026-04, assumed" in (model.assumed or "effort table 2026-04, assumed")


def test_a_revision_is_no_name(files, tmp_path):
    folder = in_a_cache(files, tmp_path, "DeepSeek-V4-Flash-0731")
    (tmp_path / "link").symlink_to(folder)
    for place in (folder, tmp_path / "link"):
        assert name_of(place) == "DeepSeek-V4-Flash-0731"
