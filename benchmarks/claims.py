"""docs/claims.md: the tables between its marks, written from benchmarks/results.

    python -m benchmarks.claims

A test compares the committed page with `page()`. What stands outside the marks is written by hand.
"""

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks import efficiency

PAGE = Path(__file__).parents[1] / "docs" / "claims.md"
BLOCKS: dict[str, Callable[[], str]] = {
    "efficiency": lambda: efficiency.table(list(efficiency.rows())),
}
"""What stands between `<!-- NAME -->` and `<!-- end -->`."""


def page() -> str:
    """The whole file; KeyError for a mark that has no block."""
    return re.sub(
        r"(?<=<!-- )(\w+)( -->\n).*?(?=<!-- end -->)",
        lambda mark: f"{mark[1]}{mark[2]}\n{BLOCKS[mark[1]]()}\n\n",
        PAGE.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
