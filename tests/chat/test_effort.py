"""Which effort table a checkpoint has, and what its levels are."""

import pytest

from dsv4_mlx.chat import ChatError, detect_effort_table, effort_levels

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


def test_else_the_name_decides(tmp_path):
    assert detect_effort_table(checkpoint(tmp_path / "DeepSeek-V4-Flash-0731")) == JULY
    assert detect_effort_table(checkpoint(tmp_path / "DeepSeek-V4-Flash-DSpark")) == APRIL


def test_a_download_cache_keeps_the_name_above_the_revision(tmp_path):
    repository = tmp_path / "models--deepseek-ai--DeepSeek-V4-Flash-0731"
    assert detect_effort_table(checkpoint(repository / "snapshots" / "c0ffee")) == JULY


def test_a_folder_above_the_checkpoint_does_not_decide(tmp_path):
    assert detect_effort_table(checkpoint(tmp_path / "backup-0731" / "model")) == APRIL


def test_a_link_to_the_checkpoint_is_followed(tmp_path):
    link = tmp_path / "model"
    link.symlink_to(checkpoint(tmp_path / "DeepSeek-V4-Flash-0731"))
    assert detect_effort_table(link) == JULY
