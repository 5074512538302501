"""`dsv4-chat doctor`: what this machine, this installation and this terminal are good for.

Everything is read from the machine itself; nothing is sent and nothing is looked up elsewhere. The
JSON line is what goes into a report of a fault: everything that decides what the program does here,
and no name of a home folder.
"""

import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

from cli.environment import Environment, ExitStatus
from cli.kept.expert_uses import ExpertUses, KeptUse
from cli.kept.row_findings import RowFindings
from cli.machine.doctor_model import (
    context_facts,
    context_line,
    draft_facts,
    draft_line,
    engram_facts,
    engram_line,
    expert_facts,
    row_facts,
    session_kernels,
)
from cli.machine.doctor_place import disk, terminal
from cli.machine.doctor_recipes import recipes
from cli.machine.doctor_report import Page, Report
from cli.machine.doctor_storage import Storage
from cli.machine.expert_memory import automatic, sentences, streamed
from cli.machine.machine import WIRED_LIMIT, Machine, read_machine
from cli.machine.memory import SHORT_CONTEXT, Fit, size
from cli.opened_model import left_out_sentence
from cli.safe import harmless, json_line
from dsv4_mlx.about import About, about, device_memory, wirable_memory
from dsv4_mlx.device import command_buffers
from dsv4_mlx.device.memory import unwirable
from dsv4_mlx.errors import Dsv4Error
from dsv4_mlx.sizing.costs import Kv
from dsv4_mlx.sizing.weight_bytes import streamed_weights
from dsv4_mlx.weights.checkpoint import open_checkpoint

CONTEXTS = (SHORT_CONTEXT, 131_072, 393_216, 1_048_576)
_PACKAGES = (
    "mlx", "mlx-lm", "numpy", "prompt-toolkit", "rich", "safetensors", "tokenizers", "mcp",
)  # fmt: skip
_WIDTH = 9


def run(
    environment: Environment,
    model: Path | None,
    *,
    backend: str = "auto",
    kv: Kv = "compact",
    prefill_chunk: int | None = None,
    compile: bool = True,
    findings: RowFindings | None = None,
    uses: ExpertUses | None = None,
    disk: bool | None = None,
    more: Callable[[Page], None] | None = None,
    json: bool = False,
) -> ExitStatus:
    """Print the report, as one JSON line with `json`; ERROR when it found a problem.

    `findings` are what loads found here of rows that keep their bits, `uses` what replies found of
    experts that lie in files. `disk` says whether the disk of the model is measured, by default
    where experts are or would be read from it. `more` adds to the page in the place of a model.
    """

    def tell(line: str) -> None:
        environment.stderr.write(f"[{harmless(line)}]\n")
        environment.stderr.flush()

    found = report(
        environment,
        model,
        backend=backend,
        kv=kv,
        prefill_chunk=prefill_chunk,
        compile=compile,
        findings=findings,
        use=None if uses is None or model is None else uses.load(model),
        storage=Storage(disk, tell=tell),
        more=more,
    )
    if json:
        facts = {**found.facts, "problems": list(found.problems)}
        if home := environment.variables.get("HOME", "").rstrip("/"):
            facts = without_home(facts, home)
        environment.stdout.write(json_line(facts))
    else:
        for subject, line in (*found.lines, *(("problem", text) for text in found.problems)):
            environment.stdout.write(harmless(f"{subject:{_WIDTH}} {line}") + "\n")
    return ExitStatus.ERROR if found.problems else ExitStatus.OK


def report(
    environment: Environment,
    model: Path | None = None,
    *,
    backend: str = "auto",
    kv: Kv = "compact",
    prefill_chunk: int | None = None,
    compile: bool = True,
    findings: RowFindings | None = None,
    use: KeptUse | None = None,
    machine: Machine | None = None,
    storage: Storage = Storage(wanted=False),  # noqa: B008 it is frozen
    more: Callable[[Page], None] | None = None,
) -> Report:
    """Everything worth knowing; `model` is the folder to look at, None for none."""
    page = Page()
    installed = _installation(page, backend, compile)
    resolved = installed.backend if installed else "cpu"
    machine = machine or replace(read_machine(), wirable=wirable_memory(resolved))
    if machine.device is None and (memory := device_memory(resolved)):
        machine = replace(machine, device=memory)
    _machine(page, machine, resolved)
    _device(page, resolved)
    if model is not None:
        _model(page, model, resolved, kv, machine, prefill_chunk, findings, use, storage)
    if more is not None:
        more(page)
    recipes(page, machine, resolved, kv)
    disk(page, environment)
    terminal(page, environment)
    return Report(page.facts, tuple(page.lines), tuple(page.problems))


def without_home(value: Any, home: str) -> Any:
    """`value`, a tree of JSON, with the folder `home` written as ~ wherever a text names it."""
    if isinstance(value, str):
        return re.sub(re.escape(home) + r"(?![\w-])", "~", value)
    if isinstance(value, Mapping):
        return {key: without_home(inner, home) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_home(inner, home) for inner in value]
    return value


def _installation(page: Page, backend: str, compile: bool) -> About | None:
    packages = {name: _version(name) for name in _PACKAGES}
    try:
        found = about(backend, compile=compile)
    except Dsv4Error as error:
        page.problems.append(str(error))
        found = None
    if found is not None:
        page.add("program", {"version": found.version}, f"dsv4-mlx {found.version}")
        page.add("backend", found.backend, found.backend)
        left_out = [f"left out: {left_out_sentence(found.left_out)}"] if found.left_out else []
        page.add("kernels", dict(found.kernels), *_kernel_lines(found.kernels), *left_out)
        replays = ["a reply's replay one graph, built once; --no-compile builds each anew"]
        page.add("tokens", {"compiled": found.compiled}, *(replays if found.compiled else []))
        page.add("blas", found.blas, found.blas)
    listed = ", ".join(f"{name} {found or 'missing'}" for name, found in packages.items())
    page.add("packages", {**packages, "python": python_version()},
             f"python {python_version()}, {listed}")  # fmt: skip
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _kernel_lines(kernels: Mapping[str, str]) -> Iterator[str]:
    for implementation in sorted(set(kernels.values())):
        names = [name for name, chosen in kernels.items() if chosen == implementation]
        yield f"{implementation}: {', '.join(names)}"


def _machine(page: Page, machine: Machine, backend: str) -> None:
    cores = "" if machine.cores is None else f", {machine.cores} cores"
    release = platform.mac_ver()[0] or platform.release()
    facts: dict[str, Any] = {
        "system": machine.system,
        "release": release,
        "architecture": platform.machine(),
        "chip": machine.chip,
        "cores": machine.cores,
    }
    page.add("machine", facts, f"{machine.chip}{cores}, {machine.system} {release}")
    limit = machine.limit(backend)
    facts = {
        "bytes": machine.memory,
        "available_bytes": machine.available,
        "container_bytes": machine.container,
        "card_bytes": machine.device,
        "limit_bytes": limit,
        "wired_limit_mb": machine.wired_limit_mb,
        "wirable_bytes": machine.wirable,
    }
    page.add("memory", facts, *_memory_lines(machine, limit))


def _memory_lines(machine: Machine, limit: int | None) -> Iterator[str]:
    if machine.memory is None or limit is None:
        yield "the system does not tell its size"
        return
    yield f"{size(machine.memory)}, of which a model may use {size(limit)}"
    if machine.is_mac:
        setting = machine.wired_limit_mb or "0, the default"
        yield f"{WIRED_LIMIT} is {setting}"
    if machine.available is not None:
        yield f"{size(machine.available)} are free now"
    if machine.device is not None:
        yield f"{size(machine.device)} on the graphics card"
    if machine.container is not None:
        yield f"its control group allows {size(machine.container)}"


def _device(page: Page, backend: str) -> None:
    """What MLX was told before it made its device; that concerns Metal alone."""
    buffers = command_buffers.current()
    facts = {
        "variables": dict(buffers.values),
        "set_here": sorted(buffers.ours),
        "may_be_late": buffers.is_late,
    }
    page.add("buffers", facts, *([buffers.sentence()] if backend == "metal" else []))
    if backend == "metal" and (problem := unwirable()):
        page.problems.append(problem)


def _model(
    page: Page,
    folder: Path,
    backend: str,
    kv: Kv,
    machine: Machine,
    prefill_chunk: int | None,
    findings: RowFindings | None,
    use: KeptUse | None,
    storage: Storage,
) -> None:
    try:
        checkpoint = open_checkpoint(folder)
        whole = Fit.of(checkpoint, kv, backend=backend, machine=machine)
        weights = streamed_weights(checkpoint, dense=4 if whole.backend == "cpu" else 2)
        pools = automatic(whole, weights)
        forms = session_kernels(checkpoint, backend, kv)
        rows, row_lines = row_facts(checkpoint, findings, backend, kv) if forms else ({}, [])
    except Dsv4Error as error:
        page.problems.append(str(error))
        return
    fit = whole if pools is None else streamed(whole, weights, pools)
    most = fit.config.max_position_embeddings
    wired = fit.held() if backend == "metal" and not unwirable() else 0
    chunk = prefill_chunk or fit.prefill_chunk
    contexts = [context for context in CONTEXTS if context <= most] or [most]
    facts = {
        "folder": str(folder),
        "layers": None if checkpoint.layers is None else str(checkpoint.layers),
        "weight_bytes": fit.weights,
        "longest_context": fit.longest(),
        "prefill_chunk": chunk,
        "wired_bytes": wired,
        **engram_facts(fit),
        **expert_facts(fit, pools, weights.slot_bytes, use),
        "drafts": draft_facts(fit, checkpoint),
        "contexts": {context: context_facts(fit, context) for context in contexts},
        "compiled_ahead": forms,
        **rows,
    }
    lines = [*(context_line(fit, context) for context in contexts), *_forms_line(forms), *row_lines]
    page.add(
        "model",
        facts,
        f"{folder}, weights {size(fit.weights)}",
        *([checkpoint.layers.sentence()] if checkpoint.layers else []),
        *engram_line(fit),
        *(
            draft_line(fit, checkpoint)
            if pools is None
            else sentences(fit.config, pools // weights.slot_bytes, pools)
        ),
        *([] if use is None else [use.sentence()]),
        *lines,
        f"longest context here: {fit.longest():,} of {most:,} tokens",
        *([f"{size(wired)} stay resident (wired) while it is used"] if wired else []),
        f"a prompt is read {chunk:,} tokens at a time",
    )
    if not fit.fits(contexts[0]):
        page.problems.append(fit.sentence(contexts[0]))
    storage.add(page, checkpoint, whole, machine)


def _forms_line(forms: Sequence[str]) -> list[str]:
    if not forms:
        return []
    return [f"{len(forms)} forms of kernels are compiled while it loads (--json lists them)"]
