"""docs/claims.md: the tables between its marks and its pictures, written from benchmarks/results.

    python -m benchmarks.claims

Tests compare the committed files with `page()` and `pictures()`. What stands outside the marks is
written by hand.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import efficiency, post_training, quantised
from benchmarks.ablations import pictures as ablations

PAGE = Path(__file__).parents[1] / "docs" / "claims.md"
PICTURES = PAGE.with_suffix("")
BLOCKS: dict[str, Callable[[], str]] = {
    "efficiency": lambda: efficiency.table(list(efficiency.rows())),
    "ablations": ablations.table,
    "differences": ablations.differences,
    "gaps": ablations.gaps,
    "report": ablations.beside_the_report,
    "pictures": lambda: links(ablations.pictures()),
    "quantised": quantised.table,
    "grpo": post_training.grpo_table,
    "curves": lambda: links(post_training.pictures()),
    "students": post_training.students_table,
}
"""What stands between `<!-- NAME -->` and `<!-- end -->`."""


def page() -> str:
    """The whole file; KeyError for a mark that has no block."""
    return re.sub(
        r"(?<=<!-- )((?!end\b)\w+)( -->\n).*?(?=<!-- end -->)",
        lambda mark: f"{mark[1]}{mark[2]}\n{BLOCKS[mark[1]]()}\n\n",
        PAGE.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )


def links(drawn: Mapping[str, str]) -> str:
    """SVG texts by file name, as Markdown shows them."""
    shown = [
        f"![{picture.partition('<title>')[2].partition('</title>')[0]}](claims/{name})"
        for name, picture in drawn.items()
    ]
    return "\n".join(shown) or "No run has ended yet."


def pictures() -> dict[str, str]:
    """SVG texts by the name of their file in docs/claims."""
    return ablations.pictures() | post_training.pictures()


def main() -> None:
    """Write the page and its pictures; pictures that are no longer drawn go."""
    PAGE.write_text(page(), encoding="utf-8")
    PICTURES.mkdir(exist_ok=True)
    drawn = pictures()
    for old in PICTURES.glob("*.svg"):
        if old.name not in drawn:
            old.unlink()
    for name, svg in drawn.items():
        (PICTURES / name).write_text(svg, encoding="utf-8")
    print(f"wrote {PAGE} and {len(drawn)} pictures")


if __name__ == "__main__":
    main()
