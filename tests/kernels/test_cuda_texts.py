"""Every text that a launch of the cuda backend uses compiles for the GPUs it is meant for.

NVIDIA's compiler needs no GPU. What it cannot say, whether the numbers are right, the same texts
show as Metal on this CPU.
"""

import operator
import re
from collections import defaultdict
from functools import cache, partial

import mlx.core as mx
import pytest

from dsv4_mlx.cache import LayerCache, evaluated
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.config import FLASH, PRO
from dsv4_mlx.tracing import place_weights, trace
from dsv4_mlx.unloaded import cache_after
from metal_kernels.registry import bind, kernels
from tests.kernels import nvrtc
from tests.kernels.cuda_signature import UTILS, UTILS_TEXT, Launch, cuda_source, recorded
from tests.kernels.nvrtc import Compiled, CompileError

pytestmark = pytest.mark.nvrtc

ARCHITECTURES = ("sm_80", "sm_90")
# What a block may share without asking for more, and the registers of a multiprocessor.
SHARED_BYTES = 48 * 1024
REGISTERS = 64 * 1024


# Context and new tokens of calls whose launches are looked at.
CALLS = ((FLASH, 4096, 1), (FLASH, 4096, 512), (FLASH, 1 << 20, 1), (PRO, 1 << 20, 512))


@cache
def launches_of_cases() -> dict[str, list[Launch]]:
    """By text: the launches of all cases of all kernels."""
    plan = bind("cuda")
    with recorded() as launches:
        for kernel in kernels().values():
            for case in kernel.cases if "cuda" in kernel.launches else ():
                getattr(plan.ops, kernel.name)(**case.make(0))
    return by_text(launches)


@cache
def launches_of_releases() -> dict[str, list[Launch]]:
    """By text: the launches of CALLS, which are traced without weights."""
    with recorded() as launches:
        for config, context, tokens in CALLS:
            model = Model(config, plan=bind("cuda"))
            place_weights(model)
            cache = cache_after(model, context, 1)
            call = partial(_streams, model, cache)
            trace(call, mx.zeros((1, tokens), mx.int32), model=model, cache=cache)
    return by_text(launches)


def _streams(model: Model, cache: list[LayerCache], tokens: mx.array) -> list[mx.array]:
    return [model.last_logits(tokens, cache), *evaluated(cache)]


def by_text(launches: list[Launch]) -> dict[str, list[Launch]]:
    found = defaultdict(list)
    for launch in launches:
        found[launch.name].append(launch)
    return dict(found)


def launches(name: str) -> list[Launch]:
    return launches_of_cases()[name] + launches_of_releases().get(name, [])


def variants(name: str) -> list[Launch]:
    """Of each kernel that MLX would compile of a text the launch with most threads."""
    widest = {}
    for launch in sorted(launches(name), key=lambda launch: launch.threads):
        widest[launch.variant] = launch
    return list(widest.values())


def compiled(text: list[Launch], architecture: str) -> Compiled:
    return nvrtc.compiled(cuda_source(text), architecture, {UTILS: UTILS_TEXT})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", sorted(launches_of_cases()))
def test_every_text_compiles_and_fits(name: str, architecture: str) -> None:
    own = variants(name)
    result = compiled(own, architecture)
    assert ".reg .f64" not in result.ptx, f"{name}: a number without f makes a sum double"
    assert len(result.kernels) == len(own)
    for function, used in result.kernels.items():
        launch = own[int(re.search(r"variant_(\d+)", function).group(1))]
        assert used.shared_bytes <= SHARED_BYTES, launch
        assert used.registers * launch.threads <= REGISTERS, f"{used}: {launch}"


@pytest.mark.parametrize("name", sorted(launches_of_cases()))
def test_warps_are_whole_where_lanes_speak(name: str) -> None:
    """Metal's functions of a simdgroup leave out lanes that do not exist, a warp's do not."""
    if "simd_" in cuda_source(launches(name)[:1]).partition(f'#line 1 "{name}.metal"')[2]:
        assert all(launch.threads % 32 == 0 for launch in launches(name))


@pytest.mark.parametrize("name", sorted(launches_of_cases()))
def test_grids_and_blocks_are_within_cudas_limits(name: str) -> None:
    for launch in launches(name):
        blocks = [-(-g // t) for g, t in zip(launch.grid, launch.threadgroup, strict=True)]
        assert all(map(operator.le, blocks, (2**31 - 1, 65535, 65535))), launch
        assert all(map(operator.le, launch.threadgroup, (1024, 1024, 64))), launch
        assert launch.threads <= 1024, launch


def test_cases_reach_every_text_of_the_releases() -> None:
    assert launches_of_releases().keys() <= launches_of_cases().keys()


def test_an_error_names_the_file_and_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    name = sorted(launches_of_cases())[0]
    launch = Launch(name, (), (), (), (1, 1, 1), (1, 1, 1))
    with pytest.raises(CompileError, match=rf'{name}\.(metal|cu)\(\d+\): error: identifier "'):
        compiled([launch], "sm_90")
