"""docs/terminal.md says what the program does."""

from cli.manual import PAGE, page


def test_the_page_is_what_the_program_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run make pages"


def test_settings_and_keys_that_the_text_names_exist() -> None:
    from cli import config

    known = config.commented()
    assert all(f"\n#{name} = " in known for name in ("snapshot_budget", "session_budget"))
