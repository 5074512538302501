"""The page and its verdict: right, wrong, near ties, and never longer than an issue."""

from typing import Any

import pytest

from benchmarks.report import page, verdict

MACHINE = {
    "kind": "machine", "backend": "metal", "date": "2026-01-01", "machine": "8 x M", "device": "M",
    "references": ["router"], "device_info": {"memory_size": "1"}, "system": "macOS", "commit": "",
    "versions": {"mlx": "0.32.4"}, "variables": {}, "kernels": ["swiglu"], "macos": "15.6",
    "macos_build": "24G84", "chip": "Apple M", "memory_bytes": 64 << 30, "wired_limit_mb": 0,
    "power_mode": "low", "power_source": "Now drawing from 'AC Power'",
}  # fmt: skip
NANO = {
    "kind": "nano", "tokens": 8, "median_s": 0.001, "largest_difference": 0.01, "deviation": 2.0,
    "differs_at": None,
}  # fmt: skip
DECODE = {
    "kind": "decode", "layers": 2, "context": 40, "build_s": 0.003, "encode_s": 0.002,
    "wait_s": 0.001, "total_s": 0.006, "peak_bytes": 1,
}  # fmt: skip
FLOOR = {"kind": "floor", "bytes": 10**9, "launches": 100, "chain": 80, "buffers_mlx": 9,
         "buffers": 1}  # fmt: skip
SPEEDS = [
    {"kind": "speed", "name": "matvec", "bytes": 10**9, "gb_per_s": 500.0},
    {"kind": "speed", "name": "launch", "count": 20, "us": 2.5},
    {"kind": "speed", "name": "matmul float32", "flops": 10**9, "tflop_per_s": 10.0},
]


def part(name: str, *rows: dict[str, Any], **ended: str) -> dict[str, Any]:
    return {"name": name, "state": "done", "at": "", "message": "", "seconds": 1.0,
            "rows": list(rows)} | ended  # fmt: skip


def case(kernel: str = "swiglu") -> dict[str, Any]:
    return {"kind": "case", "kernel": kernel, "case": "one", "largest_error": 2e-7}


def failed(message: str = "no") -> dict[str, Any]:
    return {"kind": "failed", "what": "swiglu [two]", "message": message}


def found(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"format": 2, "command": "it", "parts": [part("machine", MACHINE), *parts]}


def test_what_is_right_is_said_to_be() -> None:
    right = found(part("kernel:swiglu", case()), part("nano", NANO))
    assert verdict.problems(right) == []
    text = page.markdown(right)
    assert "1 kernels in 1 cases, and nano answers as on the CPU." in text
    assert "| swiglu | 1 of 1 right | 2.0e-07 | | not timed |" in text
    assert "macOS 15.6 (24G84), Apple M, 64 GiB; iogpu.wired_limit_mb 0; power mode low" in text
    assert "not written for this backend yet: router" in text
    assert "| off | the same 8 | 1.00e-02 of 2.00 | 1.00 ms |" in text


@pytest.mark.parametrize(
    ("wrong", "phrase"),
    [
        (part("kernel:swiglu", case(), failed()), "swiglu is wrong in 1 of 2 cases"),
        (
            part("kernel:swiglu", state="hung", at="first call of swiglu", message="ended after"),
            "swiglu did not end at “first call of swiglu” (ended after)",
        ),
        (part("nano", NANO | {"largest_difference": 0.3}), "nano's logits differ from the CPU's"),
        (part("nano", NANO | {"largest_difference": float("nan")}), "nano's logits differ"),
        (
            part("nano", NANO | {"differs_at": 2, "margin": 0.5, "difference_there": 0.01}),
            "nano chooses other tokens than on the CPU",
        ),
        (
            part("nano:replayed", NANO | {"largest_difference": 0.3}),
            "by replayed graphs (`dsv4-chat --no-compile` builds each token anew)",
        ),
        (part("decode:ours", state="failed", message="ended by SIGKILL\nlong"), "ended by SIGKILL"),
        (part("speeds", failed()), "swiglu [two] failed"),
    ],
)
def test_what_is_wrong_is_said_in_words(wrong: dict[str, Any], phrase: str) -> None:
    report = found(wrong)
    assert len(verdict.problems(report)) == 1 and phrase in verdict.problems(report)[0]
    assert "**Something is wrong: " in page.markdown(report)
    assert not verdict.sound(report)


def test_a_person_is_told_how_to_go_on_without_broken_kernels() -> None:
    broken = (part("kernel:swiglu", case(), failed()), part("kernel:router", state="hung"))
    text = verdict.sentence(found(*broken, part("kernel:hc_post", case())))
    assert "`dsv4-chat --kernels metal,-swiglu,-router` runs their references instead" in text
    assert "--kernels" not in verdict.sentence(found(part("speeds", failed())))


def test_a_near_tie_is_no_fault_and_is_shown() -> None:
    tie = NANO | {"differs_at": 2, "margin": 0.015, "difference_there": 0.01}
    report = found(part("nano", tie))
    assert verdict.problems(report) == []
    assert "another one at 3 of 8: a near tie, margin 1.50e-02" in page.markdown(report)


def test_times_stand_beside_floors_and_are_judged() -> None:
    ways = {"default,unwired": 0.016, "ours,unwired": 0.008, "ours,wired": 0.004}
    rows = [DECODE | {"choices": way.split(","), "session_s": s} for way, s in ways.items()]
    report = found(part("speeds", *SPEEDS), *(part("decode:x", FLOOR, row) for row in rows))
    rows[-1]["replayed_s"] = 0.003
    text = page.markdown(report)
    assert "a replayed graph instead of one built anew: -25 % time" in text
    assert "| 4.00 ms | 3.00 ms |" in text and "| 8.00 ms |  |" in text
    # 1 GB at 500 GB/s are 2 ms, 80 launches of 2.5 us 0.2 ms.
    assert "takes 2.0 times as long as reading its weights and cache would; the host is" in text
    assert "our command buffers instead of MLX's: -50 % time" in text
    assert "wired memory instead of unwired: -50 % time" in text
    assert "1.000 GB read, 2.00 ms" in text and "80 wait for one another, 0.20 ms" in text
    assert "9 command buffers by MLX's limits, 1 by ours" in text


def test_kernels_have_their_own_floor_beside_their_time() -> None:
    timing = {"kind": "timing", "kernel": "swiglu", "size": "flash", "median_us": 10.0,
              "floor_bytes": 10**6, "floor_flops": 0, "gb_per_s": 100.0,
              "gflop_per_s": 0.0}  # fmt: skip
    report = found(part("speeds", *SPEEDS), part("kernel:swiglu", case(), timing))
    line = "| swiglu | 1 of 1 right | 2.0e-07 | flash | 10.0 µs | 2.0 µs | 100.0 |  |"
    assert line in page.markdown(report)
    bound_by_operations = timing | {"floor_flops": 10**8}
    report = found(part("speeds", *SPEEDS), part("kernel:swiglu", case(), bound_by_operations))
    assert "| 10.0 µs | 10.0 µs |" in page.markdown(report)


def test_compiling_is_told_for_both_starts() -> None:
    first, second = (
        {"kind": "variant", "variant": "a 1", "text": "a", "first_s": s, "again_s": 0.1}
        for s in (0.5, 0.2)
    )
    text = page.markdown(found(part("kernel:a", first), part("again:a", second)))
    assert "| a 1 | 400.00 ms | 100.00 ms |" in text
    assert "| all 1 that both starts met | 400.00 ms | 100.00 ms |" in text


def test_a_report_of_nothing_but_faults_fits_an_issue() -> None:
    """Fifteen kernels, all cases wrong with pages of messages, and fences inside of them."""
    message = "```\n" + "error: x\n" * 160
    kernels = [part(f"kernel:k{n}", *[failed(message)] * 14) for n in range(15)]
    text = page.markdown(found(*kernels, part("nano", state="failed", message=message)))
    assert len(text) < 65_536
    assert "k0 is wrong in 14 of 14 cases" in text and "10 more below." in text
    assert "199 more messages are in report.json" in text
    assert text.count("```") == 2 * page.MOST_MESSAGES


def test_layers_that_do_not_fit_are_said_to_be_left_out() -> None:
    row = {"kind": "left out", "layers": 2, "needed_bytes": 9 * 10**9, "limit_bytes": 8 * 10**9}
    text = page.markdown(found(part("decode:ours,wired", row)))
    assert "2 of them take 9.0 GB and a model may use three quarters of 8.0 GB here." in text


def test_a_machine_that_tells_nothing_still_has_a_page() -> None:
    broken = part("machine", state="failed", message="ended by SIGSEGV")
    text = page.markdown({"format": 2, "command": "it", "parts": [broken]})
    assert "machine failed (ended by SIGSEGV)" in text
