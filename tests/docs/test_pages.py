"""`make pages` writes every generated page and golden text, and the pages say so."""

import re
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPE = re.search(
    r"^pages:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
)[1]


def test_the_command_writes_the_pages_that_name_it() -> None:
    modules = re.findall(r"-m ((?!pytest)[\w.]+)", RECIPE)
    written = {import_module(module).PAGE for module in modules}
    assert written == {
        page
        for page in (*(ROOT / "docs").glob("*.md"), *(ROOT / "dsv4_mlx").rglob("*.py"))
        if "\nWritten by `make pages`" in page.read_text(encoding="utf-8")
    }


def test_the_command_renews_the_golden_texts_of_every_test_that_has_some() -> None:
    tests = (ROOT / "tests").rglob("test_*.py")
    users = {
        file.relative_to(ROOT).as_posix()
        for file in tests
        if re.search(r"\bgolden: Callable", file.read_text(encoding="utf-8"))
    }
    assert users == set(re.findall(r"tests/\S+\.py", RECIPE))
