"""Every known pitfall of V4 ports (docs/sources.md) is noticed here, or says where and why not."""

from tests.model import (
    test_pitfalls_attention,
    test_pitfalls_cache,
    test_pitfalls_compression,
    test_pitfalls_experts,
    test_pitfalls_formats,
    test_pitfalls_indexer,
    test_pitfalls_positions,
    test_pitfalls_streams,
)

MODULES = (
    test_pitfalls_streams,
    test_pitfalls_positions,
    test_pitfalls_compression,
    test_pitfalls_indexer,
    test_pitfalls_attention,
    test_pitfalls_experts,
    test_pitfalls_formats,
    test_pitfalls_cache,
)

NOT_HERE = {
    36: "long decode with flat memory: tests/engine, 2,000 tokens and, in the soak group, 20,000",
    39: "draft acceptance needs speculation and a trained draft block; the block itself is "
    "compared with the oracle",
    40: "stopping and parsing on text instead of token ids: tests/chat",
    41: "the encoder instead of a template, effort tables, dropped reasoning: tests/chat",
    47: "every Metal text is compared with its reference, on the CPU and on a GPU if there is one: "
    "tests/kernels",
    48: "verification of several drafts: there is no speculation yet",
}
LAST_ROW = 49


def test_every_row_is_noticed_or_explained() -> None:
    noticed = {pitfall.row for module in MODULES for pitfall in module.PITFALLS.found}
    assert noticed.isdisjoint(NOT_HERE)
    assert noticed | set(NOT_HERE) == set(range(1, LAST_ROW + 1))


def test_every_check_has_a_name_and_mistakes_of_its_own() -> None:
    pitfalls = [pitfall for module in MODULES for pitfall in module.PITFALLS.found]
    names = [pitfall.check.__name__ for pitfall in pitfalls]
    assert len(set(names)) == len(names)
    for pitfall in pitfalls:
        mistakes = [mistake.__name__ for mistake in pitfall.mistakes]
        assert mistakes and len(set(mistakes)) == len(mistakes)
