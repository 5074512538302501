"""Which two ranks may run one model, and the sentence for every other pair."""

import json

import pytest

from dsv4_mlx.peers.facts import RankFacts, refusal, remarks
from tests.peers.meetings import both


def test_two_ranks_that_fit_are_let_through() -> None:
    assert refusal(both()) == "" and remarks(both()) == []


def test_the_order_of_layers_is_free() -> None:
    first, second = both()
    assert refusal([second, first]) == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": "2.0"}, "has dsv4-mlx 1.0 and rank 1 (mini) has 2.0; install the same"),
        ({"mlx": "0.33"}, "has mlx 0.32.4 and rank 1 (mini) has 0.33; install the same"),
        ({"recipe": "q2"}, "has recipe native and rank 1 (mini) has q2; convert both"),
        ({"fingerprint": "cd" * 32}, "has weights abababababab and rank 1 (mini) has cdcdcdcdcdcd"),
        ({"backend": "cpu"}, "has backend metal and rank 1 (mini) has cpu; start both with"),
        ({"settings": {"kv": "bf16"}}, "has kv none and rank 1 (mini) has bf16; start both alike"),
        ({"held": (0, 30)}, "is to run layers 30 to 60 and its folder has layers 0 to 29 alone"),
        ({"layer_count": 62, "held": (0, 20)}, "its folder has layers 0 to 19 alone"),
        ({"needed": 600 << 30}, "rank 1 (mini) needs 600.0 GiB for layers 30 to 60 and may use"),
        ({"needed": 600 << 30}, "or say on mini sudo sysctl iogpu.wired_limit_mb=614400."),
    ],
)
def test_what_does_not_fit_is_one_sentence(changes: dict, reason: str) -> None:
    sentence = refusal(both(**changes))
    assert reason in sentence and sentence.endswith(".")


def test_what_fits_neither_machine_is_told_of_both() -> None:
    first, second = both(needed=600 << 30)
    sentence = refusal([RankFacts(**vars(first) | {"needed": 513 << 30}), second])
    assert sentence == (
        "rank 0 (studio) needs 513.0 GiB for layers 0 to 29 and may use 512.0 GiB and rank 1 (mini)"
        " needs 600.0 GiB for layers 30 to 60 and may use 512.0 GiB; take a smaller recipe, or say "
        "on studio sudo sysctl iogpu.wired_limit_mb=525312 and on mini sudo sysctl "
        "iogpu.wired_limit_mb=614400."
    )


def test_layers_are_each_run_once() -> None:
    first, second = both()
    missing = RankFacts(**vars(second) | {"layers": (31, 61)})
    assert "are not the model's 61 layers, each once" in refusal([first, missing])


def test_memory_that_nobody_tells_refuses_nothing() -> None:
    assert refusal(both(memory=None, needed=1 << 60)) == ""


def test_unlike_machines_are_told_in_one_line() -> None:
    assert remarks(both(gpu="Apple M2 Ultra")) == [
        "the machines are unlike (Apple M3 Ultra and Apple M2 Ultra): the text may differ from "
        "what either says alone"
    ]


def test_facts_come_through_json_as_they_are() -> None:
    for one in both(settings={"kv": "compact"}):
        assert RankFacts.from_json(json.loads(json.dumps(one.to_json()))) == one
