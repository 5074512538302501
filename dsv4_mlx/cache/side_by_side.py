"""Timelines of one call: a token of each, every one at its own place.

    model(tokens, side_by_side(caches))     # [1, B]: the next token of each of B timelines

The tokens lie beside each other as those of one timeline do, so that what works token by token has
the shapes of a block of as many rows; what depends on a position works timeline by timeline, with
the shapes of a token alone. The states are the timelines' own, which grow by their tokens.
"""

from collections.abc import Callable, Sequence

from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.cache.state import LayerState
from dsv4_mlx.errors import CacheError


class SideBySide(LayerCache):
    """One layer of them."""

    def groups(
        self, batch: int, length: int, *, ahead: bool = False
    ) -> list[tuple[slice, slice, LayerState]]:
        """Token n of the call is that of timeline n; CacheError where they do not add up."""
        if (batch, length) != (1, len(self.rows)):
            raise CacheError(
                f"expected one token of each of {len(self.rows)} timelines, [1, {len(self.rows)}], "
                f"but found [{batch}, {length}]; give as many as the cache was made of."
            )
        return [(slice(0, 1), slice(n, n + 1), state) for n, state in enumerate(self.rows)]


def side_by_side(caches: Sequence[Sequence[LayerCache]]) -> list[LayerCache]:
    """What a model is called with for a token [1, B] of each of B timelines.

    CacheError for a batch among them, before padding and while a block is open.
    """
    for cache in caches:
        for layer in cache:
            if not layer.is_plain:
                raise CacheError(
                    f"expected caches of one timeline each but found a batch of {len(layer.rows)} "
                    "rows or padding; extract its rows first."
                )
            layer.rows[0].check_closed()
    return [
        SideBySide(layers[0].role, layers[0].layout, [layer.rows[0] for layer in layers])
        for layers in zip(*caches, strict=True)
    ]


def standing(caches: Sequence[Sequence[LayerCache]]) -> Callable[[], None]:
    """What takes timelines back to where they stand now, from a call that failed while it was made.

    It holds their arrays, so that nothing is written in place while it is kept: let go of it before
    anything is evaluated.
    """
    returns = [row.standing() for cache in caches for layer in cache for row in layer.rows]

    def go_back() -> None:
        for one in returns:
            one()

    return go_back
