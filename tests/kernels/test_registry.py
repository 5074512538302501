"""Every kernel is declared once and whole, and the backend is one explicit decision."""

import inspect
from pathlib import Path

import mlx.core as mx
import pytest

import metal_kernels
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.testing.checkpoints import TINY
from dsv4_mlx.tracing import decode_graph
from metal_kernels import backend, registry, sources
from metal_kernels.backend import ENVIRONMENT_VARIABLE, MissingBackend
from metal_kernels.contract import ContractError, Kernel
from metal_kernels.registry import NAMES, kernels
from tests.kernels.compare import shapes
from tests.kernels.float64_kernels import FLOAT64

KERNELS = [pytest.param(kernel, id=name) for name, kernel in kernels().items()]


@pytest.fixture
def only_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any GPU, and without a wish in the environment."""
    monkeypatch.setattr(backend, "available", lambda: ("cpu",))
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)


@pytest.fixture
def with_metal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "available", lambda: ("metal", "cpu"))
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)


def test_every_folder_is_a_kernel_and_every_kernel_has_a_float64_twin() -> None:
    folders = {p.parent.name for p in Path(metal_kernels.__path__[0]).glob("*/reference.py")}
    assert folders == set(NAMES) == set(kernels()) == set(FLOAT64)
    assert len(NAMES) == len(folders)


@pytest.mark.parametrize("kernel", KERNELS)
def test_declaration_is_whole(kernel: Kernel) -> None:
    assert kernels()[kernel.name] is kernel
    assert kernel.summary and kernel.outputs and kernel.cases
    assert kernel.reference.__name__ == kernel.name
    assert kernel.reference.__doc__
    assert 0 <= kernel.tolerance <= 2.0**-15
    ids = [case.id for case in kernel.cases]
    assert len(set(ids)) == len(ids)
    parameters = inspect.signature(kernel.reference).parameters
    defaults = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
    assert kernel.inputs.keys() <= parameters.keys()
    assert defaults == {name: None for name in kernel.inputs if name in defaults}


@pytest.mark.parametrize("kernel", KERNELS)
def test_cases_keep_the_contract_and_reach_sizes_one_and_odd(kernel: Kernel) -> None:
    cases = [shapes(kernel, case.make(0)) for case in kernel.cases]
    sizes = [size for case in cases for size in kernel.check(case).values()]
    assert 1 in sizes
    assert any(size % 2 and size > 1 for size in sizes)


@pytest.mark.parametrize("kernel", KERNELS)
def test_cases_are_the_same_for_the_same_seed(kernel: Kernel) -> None:
    case = kernel.cases[-1]
    first, again, other = case.make(3), case.make(3), case.make(4)
    arrays = [name for name, value in first.items() if isinstance(value, mx.array)]
    assert all(mx.array_equal(first[name], again[name]) for name in arrays)
    assert not all(mx.array_equal(first[name], other[name]) for name in arrays)


def test_a_wrong_size_is_refused_by_kernel_argument_expected_and_found() -> None:
    arguments = kernels()["hc_post"].cases[1].make(0)
    arguments["post"] = arguments["post"][..., :3]
    with pytest.raises(ContractError) as error:
        registry.bind("metal").ops.hc_post(**arguments)
    assert str(error.value) == (
        "hc_post: expected N = 4 in post [B S N] but found shape (2, 7, 3)."
    )


def test_a_wrong_number_of_axes_is_refused() -> None:
    arguments = kernels()["qkv_prepare"].cases[0].make(0)
    arguments["cos"] = arguments["cos"][0]
    with pytest.raises(ContractError) as error:
        registry.bind("metal").ops.qkv_prepare(**arguments)
    assert str(error.value) == "qkv_prepare: expected cos as [S P] but found shape (32,)."


def test_a_fixed_size_is_checked() -> None:
    arguments = kernels()["hc_pre"].cases[0].make(0)
    arguments["scale"] = mx.zeros((4,))
    with pytest.raises(ContractError, match=r"hc_pre: expected 3 = 3 in scale \[3\]"):
        registry.bind("metal").ops.hc_pre(**arguments)


def test_the_cpu_runs_references() -> None:
    plan = registry.plan("cpu")
    assert plan.backend == "cpu"
    assert plan.chosen == dict.fromkeys(NAMES, "reference")
    for name, kernel in kernels().items():
        assert getattr(plan.ops, name) is kernel.reference


@pytest.mark.parametrize("name", ["metal", "cuda"])
def test_an_absent_backend_is_an_error(only_cpu: None, name: str) -> None:
    with pytest.raises(MissingBackend, match=f"{name} backend but this machine has only cpu"):
        registry.plan(name)


def test_an_unknown_backend_is_an_error(only_cpu: None) -> None:
    with pytest.raises(MissingBackend, match=r"auto, metal, cuda, cpu but found 'gpu'"):
        registry.plan("gpu")


def test_the_environment_decides_for_auto_and_yields_to_the_argument(
    with_metal: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert registry.plan("auto").backend == "metal"
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "cpu")
    assert registry.plan("auto").backend == "cpu"
    assert registry.plan("metal").backend == "metal"
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "cuda")
    with pytest.raises(MissingBackend, match="cuda"):
        registry.plan("auto")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "")
    assert registry.plan("auto").backend == "metal"


def test_the_plan_says_where_a_backend_runs_references(
    with_metal: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, kernel in kernels().items():
        if name != "swiglu":
            monkeypatch.delitem(kernel.launches, "metal")
    plan = registry.plan("metal")
    assert plan.ops.swiglu is not kernels()["swiglu"].reference
    assert {name for name, where in plan.chosen.items() if where == "metal"} == {"swiglu"}
    assert plan.ops.router is kernels()["router"].reference


def test_the_plan_names_products_that_are_mlx_s() -> None:
    """Ours run where rows are exact, and so the ops say from the moment that they are."""
    plan = registry.bind("metal")
    others = {name: "metal" for name in NAMES if name not in registry.PRODUCTS}
    assert plan.used == others | dict.fromkeys(registry.PRODUCTS, "mlx")
    exact = plan.with_exact_rows(8)
    assert exact.ops is plan.ops and (exact.exact_rows, exact.ops.exact_rows) == (8, 8)
    assert exact.used == exact.chosen == dict.fromkeys(NAMES, "metal")


def test_texts_are_built_when_they_are_first_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    built, own = [], sources.built
    monkeypatch.setattr(sources, "built", lambda *key: built.append(key[1]) or own(*key))
    Model(TINY, plan=registry.bind("metal"))
    assert not built
    decode_graph(TINY, context=8)
    assert "sparse_attention_matrix" in built and "compress" not in built
