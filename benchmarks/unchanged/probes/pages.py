"""Pages that the program writes about itself."""

from .addresses import first


def manual() -> dict[str, str]:
    """The manual page: every slash command, key, option and setting with what it says."""
    return {"manual": first("cli.manual:page")()}
