"""What is compared, area by area: each gives one checkout's facts.

`Inputs` are written once, by the checkout before, and read by both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.unchanged import programs
from benchmarks.unchanged.checkouts import Checkout

Facts = dict[str, Any]
KV = ("compact", "bf16")
MODELS = ("tiny", "tiny512", "nano")


@dataclass(frozen=True)
class Inputs:
    """Checkpoints, cache files and conversations that the checkout before has written."""

    checkpoints: dict[str, str]
    folder: Path

    def kept(self, model: str, kv: str) -> str:
        """The folder of the cache files of a model."""
        return str(self.folder / "kept" / f"{model} {kv}")


def written(before: Checkout, folder: Path, areas: set[str]) -> Inputs:
    """All inputs of these areas, by the checkout before."""
    checkpoints = before.probe("inputs", "checkpoints", folder=str(folder / "checkpoints"))
    inputs = Inputs(checkpoints, folder)
    if "kept files" in areas:
        for model in MODELS:
            for kv in KV:
                case = {"folder": checkpoints[model], "kv": kv, "into": inputs.kept(model, kv)}
                before.probe("kept", "write", **case, damaged=(model, kv) == (MODELS[0], KV[0]))
    if "conversations" in areas:
        programs.begin_conversation(before, folder / "home", checkpoints["nano"])
    return inputs


def parameters(checkout: Checkout, inputs: Inputs) -> Facts:
    """Every spelling of a checkpoint as parameters of the model."""
    return _by_name(
        {
            name: checkout.probe("logits", "parameters", folder=folder)
            for name, folder in inputs.checkpoints.items()
        }
    )


def logits(checkout: Checkout, inputs: Inputs) -> Facts:
    """Logits by bits, for every `--kv` and for plain numerics."""
    cases = [(model, kv, "OFFICIAL") for model in MODELS for kv in KV] + [("tiny", None, "PLAIN")]
    return _by_name(
        {
            f"{model} {kv or 'plain'}": checkout.probe(
                "logits", "logits", folder=inputs.checkpoints[model], kv=kv, numerics=numerics
            )
            for model, kv, numerics in cases
        }
    )


def sessions(checkout: Checkout, inputs: Inputs) -> Facts:
    """An engine's timelines."""
    return _by_name(
        {
            f"{model} {kv}": checkout.probe(
                "logits", "sessions", folder=inputs.checkpoints[model], kv=kv
            )
            for model in MODELS
            for kv in KV
        }
    )


def launches(checkout: Checkout, inputs: Inputs) -> Facts:
    """Launches, bytes and nodes of a decoded token of the releases."""
    cases = [("flash", "metal", 8191, 1), ("flash", "metal", 8192, 2), ("flash", "cuda", 8191, 1)]
    cases += [("pro", "metal", 8192, 1)]
    found = {
        f"{model} {backend} at {context}, batch {batch}": checkout.probe(
            "graph", "graphs", model=model, backend=backend, context=context, batch=batch
        )
        for model, backend, context, batch in cases
    }
    return _by_name({"kernel plan": checkout.probe("graph", "plans"), **found})


def kept_files(checkout: Checkout, inputs: Inputs) -> Facts:
    """Cache and session files of the checkout before, and one of this checkout's own."""
    found = {}
    for model in MODELS:
        for kv in KV:
            case = {"folder": inputs.checkpoints[model], "kv": kv}
            facts = checkout.probe("kept", "read", **case, files=inputs.kept(model, kv))
            own = checkout.scratch / f"{model} {kv} own.kv"
            facts |= checkout.probe("kept", "own", **case, into=str(own))
            found[f"{model} {kv}"] = facts
    return _by_name(found)


def conversations(checkout: Checkout, inputs: Inputs) -> Facts:
    """A conversation that the checkout before kept, gone on with; and one typed anew."""
    home = inputs.folder / "home"
    return programs.conversations(checkout, home, inputs.checkpoints["nano"])


def conversions(checkout: Checkout, inputs: Inputs) -> Facts:
    """What the converter writes and says, byte for byte."""
    return programs.conversions(checkout, inputs.checkpoints["tiny"])


def training(checkout: Checkout, inputs: Inputs) -> Facts:
    """The files of the embedded model's recipe after one step: its loss and all gradients."""
    return programs.training(checkout)


def answers(checkout: Checkout, inputs: Inputs) -> Facts:
    """What the program answers on its streams."""
    return programs.answers(checkout, inputs.checkpoints["nano"])


def texts(checkout: Checkout, inputs: Inputs) -> Facts:
    """Help of all commands, refusals, and the manual."""
    return programs.texts(checkout, inputs.checkpoints["tiny"])


AREAS: dict[str, Callable[[Checkout, Inputs], Facts]] = {
    "texts": texts,
    "parameters": parameters,
    "logits": logits,
    "sessions": sessions,
    "launches": launches,
    "kept files": kept_files,
    "conversations": conversations,
    "answers": answers,
    "conversions": conversions,
    "training": training,
}


def _by_name(groups: dict[str, Facts]) -> Facts:
    return {
        f"{group}, {name}": fact for group, facts in groups.items() for name, fact in facts.items()
    }
