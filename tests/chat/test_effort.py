"""Which effort table a checkpoint has, and what its levels are."""

import json

import pytest

from dsv4_mlx.chat import ChatError, detect_effort_table, effort_levels
from dsv4_mlx.chat.effort import FoundTable, find_effort_table

APRIL, JULY = "2026-04", "2026-07-31"


def test_the_first_level_is_the_one_without_prefix():
    assert effort_levels(APRIL) == ("high", "max")
    assert effort_levels(JULY) == ("low", "high", "max")


def test_unknown_table_is_refused():
    with pytest.raises(ChatError, match="2026-07-31"):
        effort_levels("2027-01")


def checkpoint(folder, encoder=None):
    (folder / "encoding").mkdir(parents=True)
    if encoder is not None:
        (folder / "encoding" / "encoding_dsv4.py").write_text(encoder, encoding="utf-8")
    return folder


def test_the_encoder_in_the_checkpoint_decides(tmp_path):
    july = checkpoint(tmp_path / "model", 'MAX = "Reasoning Effort: Beyond maximum — exhaustive"')
    april = checkpoint(tmp_path / "model-0731", 'MAX = "Reasoning Effort: Absolute maximum"')
    assert detect_effort_table(july) == JULY
    assert detect_effort_table(april) == APRIL


def test_a_template_that_has_the_text_decides_too(tmp_path):
    folder = checkpoint(tmp_path / "model")
    (folder / "chat_template.jinja").write_text("Beyond maximum", encoding="utf-8")
    assert detect_effort_table(folder) == JULY


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("DeepSeek-V4-Flash-0731", FoundTable(JULY, "name")),
        ("deepseek_v4_flash_0731", FoundTable(JULY, "name")),
        ("V4-Flash-0731-mlx-q4", FoundTable(JULY, "name")),
        ("DeepSeek-V4-Flash-MLX-0731", FoundTable(JULY, "name")),
        ("DeepSeek-V4-Flash-DSpark", FoundTable(APRIL, "name")),
        ("DeepSeek-V4-Pro", FoundTable(APRIL, "name")),
        ("V4-Flash-mlx", FoundTable(APRIL, "name")),
        ("backup-0731", FoundTable(APRIL, "assumed")),
        ("Model-0731", FoundTable(APRIL, "assumed")),
        ("V4.1-Flash-0731", FoundTable(APRIL, "assumed")),
        ("V4-Flash-07311", FoundTable(APRIL, "name")),
        ("converted", FoundTable(APRIL, "assumed")),
    ],
)
def test_else_the_name_of_a_release_decides(name, found, tmp_path):
    assert find_effort_table(checkpoint(tmp_path / name)) == found


def test_what_a_conversion_noted_wins_over_the_name(tmp_path):
    folder = checkpoint(tmp_path / "DeepSeek-V4-Flash")
    noted = {"effort_table": {"table": JULY, "known_by": "encoder"}}
    (folder / "conversion.json").write_text(json.dumps(noted))
    assert find_effort_table(folder) == FoundTable(JULY, "encoder")


def test_what_it_only_assumed_does_not(tmp_path):
    folder = checkpoint(tmp_path / "DeepSeek-V4-Flash-0731")
    noted = {"effort_table": {"table": APRIL, "known_by": "assumed"}}
    (folder / "conversion.json").write_text(json.dumps(noted))
    assert find_effort_table(folder) == FoundTable(JULY, "name")


@pytest.mark.parametrize(
    "content", ["", "[", "[]", "{}", '{"effort_table": 1}', '{"effort_table": {"table": "x"}}',
                '{"effort_table": {"table": "2026-07-31"}}', "\ud800", '{"release": 7}',
                '{"effort_table": {"table": [], "known_by": {}}}'],
)  # fmt: skip
def test_notes_that_say_nothing_leave_it_to_the_name(content, tmp_path):
    folder = checkpoint(tmp_path / "DeepSeek-V4-Flash-0731")
    for name in ("conversion.json", "fetched.json"):
        (folder / name).write_bytes(content.encode(errors="surrogatepass"))
    assert find_effort_table(folder) == FoundTable(JULY, "name")


def test_a_download_cache_keeps_the_name_above_the_revision(tmp_path):
    repository = tmp_path / "models--deepseek-ai--DeepSeek-V4-Flash-0731"
    assert detect_effort_table(checkpoint(repository / "snapshots" / "c0ffee")) == JULY


def test_a_folder_above_the_checkpoint_does_not_decide(tmp_path):
    assert detect_effort_table(checkpoint(tmp_path / "backup-0731" / "model")) == APRIL


def test_a_link_to_the_checkpoint_is_followed(tmp_path):
    link = tmp_path / "model"
    link.symlink_to(checkpoint(tmp_path / "DeepSeek-V4-Flash-0731"))
    assert detect_effort_table(link) == JULY
