"""A tree of token ids over all conversations, in which things are held at some of its places.

A node is a stretch of tokens after its parent's. Conversations that begin alike share nodes up to
where they part, so the longest beginning of a prompt that something is held for is found in one
pass over the prompt, however many conversations there are.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


@dataclass(eq=False)
class TokenNode(Generic[Thing]):
    """Tokens `stretch` that end at offset `end`, and what is held there, if anything is."""

    stretch: "array[int]"
    end: int
    parent: "TokenNode[Thing] | None" = field(default=None, repr=False)
    children: "dict[int, TokenNode[Thing]]" = field(default_factory=dict, repr=False)
    """By the first token of their stretches."""
    held: Thing | None = None

    @property
    def is_leaf(self) -> bool:
        return not self.children

    def path(self) -> "Iterator[TokenNode[Thing]]":
        """This node and those before it, the root last."""
        node: TokenNode[Thing] | None = self
        while node is not None:
            yield node
            node = node.parent

    def tokens(self) -> list[int]:
        """All tokens up to this place."""
        found: array[int] = array("i")
        for node in reversed(list(self.path())):
            found += node.stretch
        return found.tolist()

    def below(self) -> "Iterator[TokenNode[Thing]]":
        """This node and all after it."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.children.values()


@dataclass(frozen=True)
class Matched(Generic[Thing]):
    """How a prompt fits the tree: `matched` of its tokens are in it.

    `nodes` are the places on its way at which something is held, the deepest last.
    """

    matched: int
    nodes: "tuple[TokenNode[Thing], ...]"


class TokenTree(Generic[Thing]):
    """The tree. Every node but the root holds something or has at least two children."""

    def __init__(self) -> None:
        self.root: TokenNode[Thing] = TokenNode(array("i"), 0)

    def __iter__(self) -> "Iterator[TokenNode[Thing]]":
        """Every place at which something is held."""
        return (node for node in self.root.below() if node.held is not None)

    def match(self, tokens: Sequence[int]) -> Matched[Thing]:
        """Follow `tokens` as far as the tree goes."""
        ids, node, at = array("i", tokens), self.root, 0
        nodes = []
        while True:
            if node.held is not None:
                nodes.append(node)
            following = node.children.get(ids[at]) if at < len(ids) else None
            if following is None:
                return Matched(at, tuple(nodes))
            common = common_length(following.stretch, ids[at : at + len(following.stretch)])
            at += common
            if common < len(following.stretch):
                return Matched(at, tuple(nodes))
            node = following

    def place(self, tokens: Sequence[int]) -> TokenNode[Thing]:
        """The node at the end of `tokens`, made where there is none; `hold` something at it."""
        ids, node, at = array("i", tokens), self.root, 0
        while at < len(ids):
            following = node.children.get(ids[at])
            if following is None:
                return self._grown(node, ids[at:])
            common = common_length(following.stretch, ids[at : at + len(following.stretch)])
            if common < len(following.stretch):
                following = self._split(following, common)
            node, at = following, at + common
        return node

    def drop(self, node: TokenNode[Thing]) -> None:
        """Hold nothing at `node`; stretches that lead nowhere go with it."""
        node.held = None
        while node.parent is not None and node.held is None and not node.children:
            parent = node.parent
            del parent.children[node.stretch[0]]
            node = parent
        if node.parent is not None and node.held is None and len(node.children) == 1:
            self._join(node)

    @staticmethod
    def _grown(parent: TokenNode[Thing], stretch: "array[int]") -> TokenNode[Thing]:
        node = TokenNode[Thing](stretch, parent.end + len(stretch), parent)
        parent.children[stretch[0]] = node
        return node

    @staticmethod
    def _split(node: TokenNode[Thing], length: int) -> TokenNode[Thing]:
        """Part a stretch after `length` tokens; the node of its first part."""
        assert node.parent is not None
        first = TokenNode[Thing](node.stretch[:length], node.parent.end + length, node.parent)
        node.parent.children[first.stretch[0]] = first
        node.stretch, node.parent = node.stretch[length:], first
        first.children[node.stretch[0]] = node
        return first

    @staticmethod
    def _join(node: TokenNode[Thing]) -> None:
        """Let the only child of `node` have its stretch too."""
        (child,) = node.children.values()
        assert node.parent is not None
        child.stretch, child.parent = node.stretch + child.stretch, node.parent
        node.parent.children[child.stretch[0]] = child


def common_length(one: "array[int]", other: "array[int]") -> int:
    """Length of the longest common prefix, found by halving."""
    least, most = 0, min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    while most - least > 1:
        middle = (least + most) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle
    return least
