"""The cycle of a reply with drafts: guess, read all guesses in one pass, keep those that are drawn.

Every token is drawn once, in order, with the key that plain decoding would take for it, from the
logits of its own row; a draft is right if it is the token drawn. So a reply has the tokens, the
log-probabilities and the state of plain decoding, whatever the drafts are.
"""

from collections.abc import Collection, Iterator

from dsv4_mlx.engine.draws import Drawn, Draws
from dsv4_mlx.engine.passes import Passes
from dsv4_mlx.engine.timeline import Timeline


def drafted_tokens(
    timeline: Timeline, draws: Draws, passes: Passes, limit: int, stops: Collection[int]
) -> Iterator[Drawn]:
    """At most `limit` tokens of `timeline`, which grows by each.

    Between two of them a block may be open; whoever uses the timeline otherwise settles it first,
    and the cycle then begins anew. A draw that ended a block is the first token of the next pass.
    """
    left: Drawn | None = None
    given = 0
    while given < limit:
        wanted, shadows = passes.begin(len(timeline.tokens), limit - given - 1)
        given += 1
        if left is None and not wanted:
            drawn, guessed = timeline.step(draws, shadows)
            passes.give(drawn.id)
            passes.shadows(guessed, timeline.confidence)
            yield drawn
            continue
        drawn = left or timeline.draw(draws)
        left, token = None, drawn.id
        drafts = timeline.drafts(token, wanted, draws) if wanted and token not in stops else []
        sure, made = timeline.confidence if len(drafts) else None, len(drafts)
        verified = passes.verifies(made, sure)
        passes.give(token)
        if not verified:
            guessed = timeline.advance(token, draws, shadows)
            passes.shadows(drafts if made else guessed, sure if made else timeline.confidence)
            yield drawn
            continue
        read = drafts if verified == made else drafts[:verified]
        block = timeline.open_block(token, read, draws)
        yield drawn
        while timeline.block is block:
            drawn = timeline.draw(draws, block.kept - 1)
            if block.is_used_up or drawn.id != block.rows[block.kept]:
                if not block.is_used_up:
                    passes.refuse()
                left = drawn
                break
            timeline.keep(drawn.id)
            passes.give(drawn.id)
            given += 1
            yield drawn
        timeline.settle()
