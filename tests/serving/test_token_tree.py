"""The tree of tokens against a plain dictionary."""

from hypothesis import given
from hypothesis import strategies as st

from dsv4_mlx.serving.token_tree import TokenTree

TOKENS = st.lists(st.integers(0, 2), max_size=8).map(tuple)
STEPS = st.lists(st.tuples(st.sampled_from(["hold", "drop", "match"]), TOKENS), max_size=60)


@given(STEPS)
def test_it_holds_what_a_dictionary_holds(steps: list[tuple[str, tuple[int, ...]]]) -> None:
    tree: TokenTree[int] = TokenTree()
    plain: dict[tuple[int, ...], int] = {}
    for number, (kind, tokens) in enumerate(steps):
        if kind == "hold":
            tree.place(tokens).held = plain[tokens] = number
        elif kind == "drop" and tokens in plain:
            tree.drop(tree.match(tokens).nodes[-1])
            del plain[tokens]
        else:
            on_the_way = [tokens[:end] for end in range(len(tokens) + 1) if tokens[:end] in plain]
            found = tree.match(tokens)
            assert [tuple(node.tokens()) for node in found.nodes] == on_the_way
            assert [node.held for node in found.nodes] == [plain[one] for one in on_the_way]
            assert found.matched == longest(plain, tokens)
        assert {tuple(node.tokens()): node.held for node in tree} == plain
        assert_small(tree)


def longest(plain: dict[tuple[int, ...], int], tokens: tuple[int, ...]) -> int:
    """How many of `tokens` some entry begins with."""
    ends = range(len(tokens) + 1)
    return max((end for end in ends if any(one[:end] == tokens[:end] for one in plain)), default=0)


def assert_small(tree: TokenTree[int]) -> None:
    for node in tree.root.below():
        assert node is tree.root or node.held is not None or len(node.children) > 1
        for first, child in node.children.items():
            assert child.parent is node and child.stretch[0] == first
            assert child.end == node.end + len(child.stretch)
