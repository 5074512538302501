"""Parts of what the doctor tells of a model: Engram, drafts, kernels, rows that keep their bits."""

from typing import Any

from cli.kept.expert_uses import KeptUse
from cli.kept.row_findings import RowFindings
from cli.machine.memory import Fit, size
from dsv4_mlx.device.row_finding import RowFinding
from dsv4_mlx.errors import BackendError
from dsv4_mlx.sizing.costs import Kv
from dsv4_mlx.sizing.weight_bytes import draft_bytes
from dsv4_mlx.weights.checkpoint import Checkpoint


def engram_facts(fit: Fit) -> dict[str, Any]:
    """Engram's tables and what of them is in memory; nothing without Engram."""
    if (engram := fit.config.engram) is None:
        return {}
    sizes = {"table_bytes": engram.table_bytes, "held_bytes": engram.held_bytes}
    return {"engram": sizes | {"in_files": engram.stays_in_files}}


def engram_line(fit: Fit) -> list[str]:
    if (engram := fit.config.engram) is None:
        return []
    tables, held = size(engram.table_bytes), size(engram.held_bytes)
    if engram.stays_in_files:
        return [f"Engram's tables, {tables}, are read from files row by row; {held} are kept"]
    return [f"of them {held} are Engram's tables"]


def expert_facts(
    fit: Fit, pools: int | None, slot_bytes: int, use: KeptUse | None
) -> dict[str, Any]:
    """Experts of each layer in memory where the others are read from files, and what a last run
    found where they were; nothing else."""
    facts = {} if use is None else {"expert_use": use.as_record()}
    if pools is None:
        return facts
    slots, count = pools // slot_bytes, fit.config.n_routed_experts
    return facts | {"experts": {"slots": slots, "of": count, "bytes": pools}}


def draft_facts(fit: Fit, checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The kind of draft blocks, what they take and whether `auto` loads them; None without any."""
    if not (nbytes := _draft_bytes(fit, checkpoint)):
        return None
    return {"kind": fit.config.draft_kind, "bytes": nbytes, "loaded": bool(fit.drafts)}


def _draft_bytes(fit: Fit, checkpoint: Checkpoint) -> int:
    return draft_bytes(checkpoint, dense=4 if fit.backend == "cpu" else 2)


def draft_line(fit: Fit, checkpoint: Checkpoint) -> list[str]:
    """The same for people."""
    if (facts := draft_facts(fit, checkpoint)) is None:
        return []
    if fit.dropped:
        return [fit.dropped_sentence().rstrip(".")]
    what = {"mtp": "an MTP block", "dspark": "DSpark's stages"}[facts["kind"]]
    where = "among the weights" if fit.drafts else "loaded by --draft dspark alone"
    return [f"drafts: {what}, {size(facts['bytes'])}, {where}"]


def session_kernels(checkpoint: Checkpoint, backend: str, kv: Kv) -> list[str]:
    """The forms that are compiled ahead; none where the backend is absent, which is said above."""
    from dsv4_mlx import loading

    try:
        return loading.session_kernels(checkpoint, backend=backend, kv=kv)
    except BackendError:
        return []


def row_facts(
    checkpoint: Checkpoint, findings: RowFindings | None, backend: str, kv: Kv
) -> tuple[dict[str, Any], list[str]]:
    """As JSON data and as lines, both empty on a CPU; BackendError where `backend` is absent."""
    if backend == "cpu" or findings is None:
        return {}, []
    from dsv4_mlx.loading import recorded_rows

    found = recorded_rows(checkpoint, findings, backend=backend, kv=kv)
    record = None if found is None else found.as_record()
    return {"rows": record}, [row_line(found)]


def row_line(found: RowFinding | None) -> str:
    """For people."""
    if found is None:
        return "a pass of several rows: not tried yet; a load for drafts tries it once"
    if found.reason:
        return f"a pass has one row: {found.reason}"
    slower = "" if found.slower is None else f"; one row takes {found.slower:+.0%} beside MLX's"
    return f"a pass of up to {found.exact_rows} rows has the bits of single ones{slower}"


def context_facts(fit: Fit, context: int) -> dict[str, Any]:
    """What a conversation of `context` tokens takes."""
    return {
        "bytes": fit.needed(context),
        "fits": fit.fits(context),
        "command": fit.command(context),
    }


def context_line(fit: Fit, context: int) -> str:
    """The same for people."""
    verdict = "fits" if fit.fits(context) else fit.command(context) or "does not fit"
    return f"{context:>9,} tokens {size(fit.needed(context)):>10}  {verdict}"
