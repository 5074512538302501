"""Markdown for tests: pieces that meet in every order, and an answer as models write them."""

from hypothesis import strategies as st

PIECES = [
    *("\n", "\n\n", " ", "  ", "    ", "\t", "a", "word ", "你好", "e\u0301"),
    *("**", "*", "_", "`", "```", "```python\n", "```\n", "~~~\n"),
    *("# ", "## ", "---", "\n---\n", "===\n", "- ", "\n- ", "\n  - ", "\n1. ", "\n   "),
    *("> ", "\n> ", "|", " | ", "\n|---|---|\n", "\n| a | b |\n"),
    *("$", "$$", "\n$$\n", "\\(", "\\)", "\\[", "\n\\[\n", "\\]", "\\begin{a}", "\\end{a}", "\\"),
    *("[", "](", ")", "![", "<br>", "<b>", "&#x202e;", "&amp;", "http://x.y/"),
    *("x" * 700, "word " * 500),
]
MARKDOWN = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)

ANSWER = """\
# Sorting, *quickly*

To sort `xs` in **Python**, use `sorted(xs)`; see [the docs](https://docs.python.org/3/howto/).
It is stable: a_b stays before a_c. It takes $O(n \\log n)$, or \\(a_b \\\\ c_d\\), for $5 or $10.

1. First, write it:

   ```python
   def ordered(xs):
       \"\"\"Smallest first.

       Ties keep their order.\"\"\"
       return sorted(xs)  # stable
   ```
2. Then try it:
   - with an *empty* list
     - and with one that has a good many words in it, so many that they need a second line
   - [ ] with 你好 and e\u0301
10. Done.

> A quote of two lines
> that goes on
>
> - and has a list

| name | size | what it is |
|:-----|-----:|:----------:|
| a.py | 1,234 | a `file` with **bold** |
| 你好 | 5 | wide<br>two |

$$
\\int_0^1 x_1 * y * z
$$

***

That is ~~all~~ it.
"""
