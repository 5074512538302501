"""What a self-test found is there at the next load, under the name of all it depends on."""

import stat
from pathlib import Path

import pytest

from cli.kept.row_findings import RowFindings, kept_row_findings

FOUND = {"exact_rows": 8, "reason": "", "slower": 0.01, "weight_bytes": 5}


def test_a_finding_comes_back_for_its_machine_alone(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    RowFindings(folder).store("gpu mlx 1", FOUND)
    assert RowFindings(folder).load("gpu mlx 1") == FOUND
    assert RowFindings(folder).load("gpu mlx 2") is None
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_file_of_another_machine_is_not_believed(tmp_path: Path) -> None:
    """However it came to have this one's name."""
    findings = RowFindings(tmp_path)
    findings.store("one", FOUND)
    (file,) = tmp_path.iterdir()
    findings.store("other", FOUND | {"exact_rows": 1})
    other = next(path for path in tmp_path.iterdir() if path != file)
    file.write_bytes(other.read_bytes())
    assert findings.load("one") is None and findings.load("other") is not None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"machine": 3}'])
def test_a_file_that_is_none_is_nothing(content: bytes, tmp_path: Path) -> None:
    findings = RowFindings(tmp_path)
    findings.store("one", FOUND)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    assert findings.load("one") is None


def test_what_cannot_be_written_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("a file")
    findings = kept_row_findings({"DSV4_HOME": str(tmp_path)}, True)
    assert findings is not None
    findings.store("one", FOUND)
    assert findings.load("one") is None


def test_nothing_is_kept_where_nobody_wants_it(tmp_path: Path) -> None:
    assert kept_row_findings({"DSV4_HOME": str(tmp_path)}, False) is None
