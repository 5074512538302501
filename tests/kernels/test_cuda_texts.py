"""Every text that a launch of the cuda backend uses compiles for the GPUs it is meant for.

NVIDIA's compiler needs no GPU. What it cannot say, whether the numbers are right, the same texts
show as Metal on this CPU.
"""

import re
from collections import defaultdict
from functools import cache

import pytest

from metal_kernels.registry import kernels
from tests.kernels import nvrtc
from tests.kernels.cuda_signature import UTILS, UTILS_TEXT, Launch, cuda_source, recorded
from tests.kernels.nvrtc import Compiled, CompileError

pytestmark = pytest.mark.nvrtc

ARCHITECTURES = ("sm_80", "sm_90")
# What a block may share without asking for more, and the registers of a multiprocessor.
SHARED_BYTES = 48 * 1024
REGISTERS = 64 * 1024


@cache
def launches() -> dict[str, list[Launch]]:
    """By text: the launches of all cases of all kernels."""
    found = defaultdict(list)
    with recorded() as all_launches:
        for kernel in kernels().values():
            implementation = kernel.implementations.get("cuda")
            for case in kernel.cases if implementation else ():
                implementation(**case.make(0))
    for launch in all_launches:
        found[launch.name].append(launch)
    return dict(found)


def variants(name: str) -> list[Launch]:
    """Of each kernel that MLX would compile of a text the launch with most threads."""
    widest = {}
    for launch in sorted(launches()[name], key=lambda launch: launch.threads):
        widest[launch.variant] = launch
    return list(widest.values())


def compiled(text: list[Launch], architecture: str) -> Compiled:
    return nvrtc.compiled(cuda_source(text), architecture, {UTILS: UTILS_TEXT})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", sorted(launches()))
def test_every_text_compiles_and_fits(name: str, architecture: str) -> None:
    own = variants(name)
    result = compiled(own, architecture)
    assert ".reg .f64" not in result.ptx, f"{name}: a number without f makes a sum double"
    assert len(result.kernels) == len(own)
    for function, used in result.kernels.items():
        launch = own[int(re.search(r"variant_(\d+)", function).group(1))]
        assert used.shared_bytes <= SHARED_BYTES, launch
        assert used.registers * launch.threads <= REGISTERS, f"{used}: {launch}"


@pytest.mark.parametrize("name", sorted(launches()))
def test_warps_are_whole_where_lanes_speak(name: str) -> None:
    """Metal's functions of a simdgroup leave out lanes that do not exist, a warp's do not."""
    if "simd_" in cuda_source(launches()[name][:1]).partition(f'#line 1 "{name}.metal"')[2]:
        assert all(launch.threads % 32 == 0 for launch in launches()[name])


def test_an_error_names_the_file_and_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    name = sorted(launches())[0]
    launch = Launch(name, (), (), (), (1, 1, 1), (1, 1, 1))
    with pytest.raises(CompileError, match=rf'{name}\.(metal|cu)\(\d+\): error: identifier "'):
        compiled([launch], "sm_90")
