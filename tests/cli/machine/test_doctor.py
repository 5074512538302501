"""`dsv4-chat doctor`: its page, its JSON line, its problems, and that it stays offline."""

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from cli.environment import Environment
from cli.kept.row_findings import RowFindings
from cli.machine import doctor
from cli.machine.doctor import report, run
from convert.plan import plan_conversion
from convert.progress import ProgressDisplay
from convert.writer import write
from dsv4_mlx import about as facts
from dsv4_mlx.about import About
from dsv4_mlx.device.row_finding import RowFinding
from dsv4_mlx.exact_rows.at_load import RowTest
from dsv4_mlx.loading import load_model
from dsv4_mlx.release import engram as release_engram
from dsv4_mlx.release.engram import EngramConfig
from dsv4_mlx.release.layer_ranges import LayerRange
from dsv4_mlx.sizing.machines import WORKING_BYTES
from dsv4_mlx.sizing.recipe_sizes import RECIPES
from dsv4_mlx.testing.checkpoints import LONG, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from metal_kernels.registry import bind
from tests.cli.machines import GIB, linux, mac
from tests.cli.running import Stream


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = LONG.replace(max_position_embeddings=16_384)
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), config)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    variables = {"TERM": "xterm-256color", "DSV4_HOME": str(tmp_path), "TMUX": "x"}
    return Environment(Stream(), Stream(), Stream(), variables)


@pytest.fixture
def metal(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation with the Metal backend, which only a Mac has."""
    made = About("0.1.0", "0.32.4", "metal", {"router": "metal", "hc_pre": "reference"}, "none")
    monkeypatch.setattr(doctor, "about", lambda _, compile=True: replace(made, compiled=compile))


def page(found: doctor.Report) -> dict[str, list[str]]:
    """Lines by subject."""
    subjects: dict[str, list[str]] = {}
    current = ""
    for subject, line in found.lines:
        current = subject or current
        subjects.setdefault(current, []).append(line)
    return subjects


def test_the_page_names_everything(environment: Environment, folder: Path) -> None:
    lines = page(report(environment, folder, backend="cpu", machine=linux(24)))
    assert list(lines) == [
        "program", "backend", "kernels", "blas", "packages", "machine", "memory", "model",
        "recipes", "disk", "terminal",
    ]  # fmt: skip
    assert lines["backend"] == ["cpu"]
    assert lines["memory"] == [
        "24.0 GiB, of which a model may use 24.0 GiB",
        "12.0 GiB are free now",
    ]
    assert lines["model"][0].startswith(f"{folder}, weights ")
    assert lines["model"][1].split() == ["8,192", "tokens", "2.0", "GiB", "fits"]
    assert lines["model"][-2:] == [
        "longest context here: 16,384 of 16,384 tokens",
        "a prompt is read 512 tokens at a time",
    ]
    assert lines["recipes"] == ["none of V4-Flash and V4-Pro fits here"]
    assert lines["terminal"] == ["xterm-256color, no size, utf-8, plain lines, tmux"]
    assert "mlx " in lines["packages"][0]


@pytest.mark.usefixtures("metal")
def test_the_chunk_of_a_prompt_follows_memory_and_the_person(
    environment: Environment, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "about", doctor.about)

    def told(**options: int) -> tuple[str, int]:
        found = report(environment, folder, machine=mac(192), **options)
        return page(found)["model"][-1], found.facts["model"]["prefill_chunk"]

    assert told() == ("a prompt is read 2,048 tokens at a time", 2048)
    assert told(prefill_chunk=100) == ("a prompt is read 100 tokens at a time", 100)


@pytest.mark.usefixtures("metal")
def test_a_mac_is_told_that_tokens_replay_a_graph(environment: Environment) -> None:
    found = report(environment, machine=mac(192))
    assert found.facts["tokens"] == {"compiled": True}
    assert "--no-compile" in page(found)["tokens"][0]
    found = report(environment, machine=mac(192), compile=False)
    assert found.facts["tokens"] == {"compiled": False} and "tokens" not in page(found)


@pytest.mark.usefixtures("metal")
def test_a_mac_is_told_which_recipes_fit_and_which_with_the_command(
    environment: Environment,
) -> None:
    lines = page(report(environment, machine=mac(192)))
    assert lines["memory"][1] == "iogpu.wired_limit_mb is 0, the default"
    assert lines["kernels"] == ["metal: router", "reference: hc_pre"]
    assert lines["recipes"] == [
        "V4-Flash native: with sudo sysctl iogpu.wired_limit_mb=154624",
        "V4-Flash q8: with sudo sysctl iogpu.wired_limit_mb=154624",
        "V4-Flash q6: with sudo sysctl iogpu.wired_limit_mb=153600",
        "V4-Flash q4: with sudo sysctl iogpu.wired_limit_mb=152576",
        "V4-Flash q3: a context of 1,048,576 tokens",
        "V4-Flash q2: a context of 1,048,576 tokens",
    ]


@pytest.mark.usefixtures("metal")
def test_a_mac_is_told_how_long_command_buffers_are(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"MLX_MAX_OPS_PER_BUFFER": "7", "MLX_MAX_MB_PER_BUFFER": "8"}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    found = report(environment, machine=mac(192))
    told = "command buffers: MLX_MAX_OPS_PER_BUFFER=7 (yours), MLX_MAX_MB_PER_BUFFER=8 (yours)"
    assert page(found)["buffers"] == [told]
    assert found.facts["buffers"] == {"variables": own, "set_here": [], "may_be_late": False}


@pytest.mark.usefixtures("metal")
def test_a_mac_is_told_what_stays_resident(
    environment: Environment, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the model needs, its margin included, or what the GPU says may be wired."""
    monkeypatch.setattr("dsv4_mlx.device.memory.platform.mac_ver", lambda: ("15.5", (), ""))
    monkeypatch.setattr("dsv4_mlx.about.about", doctor.about)
    found = report(environment, folder, machine=replace(mac(192), wirable=150 * GIB))
    assert page(found)["memory"][0] == "192.0 GiB, of which a model may use 150.0 GiB"
    assert page(found)["model"][-2] == "4.1 GiB stay resident (wired) while it is used"
    assert found.facts["memory"]["wirable_bytes"] == 150 * GIB
    small = report(environment, folder, machine=replace(mac(192), wirable=3 * GIB))
    assert small.facts["model"]["wired_bytes"] == 3 * GIB and not small.problems
    monkeypatch.setattr("dsv4_mlx.device.memory.platform.mac_ver", lambda: ("14.5", (), ""))
    old = report(environment, folder, machine=mac(192))
    assert old.facts["model"]["wired_bytes"] == 0
    (problem,) = old.problems
    assert problem.startswith("macOS 14.5 keeps no model resident in memory, which takes macOS 15")


def test_the_json_line_has_the_same_facts(environment: Environment, folder: Path) -> None:
    assert run(environment, folder, backend="cpu", json=True) == 0
    assert isinstance(environment.stdout, Stream)
    (line,) = environment.stdout.getvalue().splitlines()
    facts = json.loads(line)
    assert facts["backend"] == "cpu"
    assert facts["model"]["folder"] == str(folder)
    assert set(facts["recipes"]) == set(RECIPES)
    assert facts["problems"] == []


def test_a_model_that_cannot_fit_is_a_problem(environment: Environment, folder: Path) -> None:
    found = report(environment, folder, backend="cpu", machine=linux(1))
    (problem,) = found.problems
    assert "1.0 GiB may be used here" in problem
    assert "does not fit" in page(found)["model"][1]


def test_engrams_tables_are_told(environment: Environment, tmp_path: Path) -> None:
    engram = EngramConfig((0, 2), LONG.vocab_size, 4_000, max_ngram_size=3, n_heads=2, head_dim=64)
    folder = write_tiny_checkpoint(tmp_path / "tiny", LONG.replace(engram=engram), tokenizer=False)
    found = report(environment, folder, backend="cpu", machine=linux(24))
    tables = sum(engram.num_embeddings) * 66
    expected = {"table_bytes": tables, "held_bytes": tables, "in_files": False}
    assert found.facts["model"]["engram"] == expected
    assert "of them 2 MiB are Engram's tables" in page(found)["model"]


def test_tables_that_stay_in_files_are_told(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a release do, by their size; here less may be in memory."""
    monkeypatch.setattr(release_engram, "IN_MEMORY_BYTES", 1 << 20)
    monkeypatch.setattr(release_engram, "KEPT_BYTES", 1 << 19)
    engram = EngramConfig((0, 2), LONG.vocab_size, 4_000, max_ngram_size=3, n_heads=2, head_dim=64)
    folder = write_tiny_checkpoint(tmp_path / "tiny", LONG.replace(engram=engram), tokenizer=False)
    found = report(environment, folder, backend="cpu", machine=linux(24))
    tables = sum(engram.num_embeddings) * 66
    expected = {"table_bytes": tables, "held_bytes": 1 << 20, "in_files": True}
    assert found.facts["model"]["engram"] == expected
    line = "Engram's tables, 2 MiB, are read from files row by row; 1 MiB are kept"
    assert line in page(found)["model"]


def test_a_folder_that_is_no_model_is_a_problem(environment: Environment, tmp_path: Path) -> None:
    assert run(environment, tmp_path, backend="cpu") == 1
    assert isinstance(environment.stdout, Stream)
    last = environment.stdout.getvalue().splitlines()[-1]
    assert last.startswith("problem   ") and "is not a model folder" in last


def test_a_missing_backend_is_a_problem_and_the_rest_is_told(environment: Environment) -> None:
    found = report(environment, backend="cuda", machine=linux(24))
    assert found.problems[0].startswith("expected the cuda backend but")
    assert "memory" in page(found)


def test_a_card_counts_instead_of_the_memory(environment: Environment, metal: None) -> None:
    machine = replace(linux(64), device=80 * GIB)
    assert page(report(environment, machine=machine))["memory"][1] == "32.0 GiB are free now"
    assert "80.0 GiB on the graphics card" in page(report(environment, machine=machine))["memory"]


def test_nothing_touches_the_network(
    environment: Environment, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "__init__", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert run(environment, folder, backend="cpu") == 0


def test_the_line_that_people_paste_names_no_home_folder(environment: Environment) -> None:
    home = f"{environment.variables['DSV4_HOME']}"
    variables = {**environment.variables, "HOME": home, "DSV4_HOME": f"{home}/kept"}
    environment = replace(environment, variables=variables)
    run(environment, Path(home, "models", "none"), backend="cpu", json=True)
    line = environment.stdout.getvalue()
    assert home not in line
    facts = json.loads(line)
    assert facts["disk"]["folder"] == "~/kept"
    assert any("~/models/none" in problem for problem in facts["problems"])
    assert {"release", "architecture"} <= facts["machine"].keys()


def test_a_folder_that_only_begins_like_the_home_folder_keeps_its_name() -> None:
    value = {"a": ["/home/ann/x", "/home/anna/x", "/home/ann: missing."], "b": 1}
    expected = {"a": ["~/x", "/home/anna/x", "~: missing."], "b": 1}
    assert doctor.without_home(value, "/home/ann") == expected


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (None, "a pass of several rows: not tried yet; a load for drafts tries it once"),
        (
            RowFinding(8, "", 0.012),
            "a pass of up to 8 rows has the bits of single ones; one row takes +1% beside MLX's",
        ),
        (RowFinding(1, "it is slow", 0.2), "a pass has one row: it is slow"),
    ],
)
def test_what_a_load_found_of_rows_is_told(
    environment: Environment,
    folder: Path,
    metal: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    found: RowFinding | None,
    line: str,
) -> None:
    """Under the name that a load of this folder on Metal gives it."""
    monkeypatch.setattr(doctor, "session_kernels", lambda *_: ["router"])
    monkeypatch.setattr("dsv4_mlx.loading.kernel_plan", lambda _: bind("metal"))
    monkeypatch.setattr(facts, "about", doctor.about)
    findings = RowFindings(tmp_path / "rows")
    if found is not None:

        class Noted(RowTest):
            def recorded(self, machine: str) -> None:
                findings.store(machine, found.as_record())

        load_model(open_checkpoint(folder), kernels=bind("metal"), rows=Noted(without_weights=True))
    made = report(environment, folder, machine=mac(24), findings=findings)
    assert made.problems == ()
    assert line in page(made)["model"]
    assert made.facts["model"]["rows"] == (None if found is None else found.as_record())
    assert "rows" not in report(environment, folder, machine=mac(24)).facts["model"]


def test_a_part_of_a_model_is_whole_for_its_layers(
    environment: Environment, folder: Path, tmp_path: Path
) -> None:
    source = open_checkpoint(folder)
    count = source.config.num_hidden_layers
    needed = {}
    for name, layers in (
        ("whole", None), ("first", LayerRange(0, 1, count)), ("last", LayerRange(1, count, count)),
    ):  # fmt: skip
        write(plan_conversion(source, layers=layers), tmp_path / name, ProgressDisplay())
        found = report(environment, tmp_path / name, backend="cpu", machine=linux(24))
        assert found.problems == ()
        model = found.facts["model"]
        assert model["layers"] == (layers and str(layers))
        needed[name] = model["contexts"][8_192]["bytes"] - WORKING_BYTES
    assert f"layers 1:{count} of {count}" in page(found)["model"]
    assert needed["first"] + needed["last"] == needed["whole"]
