"""A command line together with what the configuration says where it says nothing."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from cli.config import Config
from cli.environment import Environment
from cli.kept.row_findings import kept_row_findings
from cli.models import load_model
from cli.options import Options
from dsv4_mlx.errors import UsageError

if TYPE_CHECKING:
    from cli.models import Load


def completed(options: Options, chosen: Config) -> Options:
    """The options with what the configuration says where they say nothing."""
    memory = options.expert_memory
    if memory is None:
        memory = "auto" if chosen.expert_memory is None else chosen.expert_memory
    return replace(
        options,
        backend=backend_of(options, chosen.backend),
        kv=options.kv or chosen.kv,
        prefill_chunk=options.prefill_chunk or chosen.prefill_chunk,
        compile=options.compile and chosen.compile,
        expert_memory=memory,
        model=options.model or chosen.model,
    )


def backend_of(options: Options, configured: str = "auto") -> str:
    """Where the model runs, and the kernels that it does without, as `registry.plan` reads it."""
    backend, kernels = options.backend or configured, options.kernels
    if kernels is None:
        return backend
    named = [word for word in kernels.split(",") if word and not word.startswith("-")]
    if not named:
        return f"{backend},{kernels}"
    if options.backend not in (None, "auto", named[0]):
        raise UsageError(f"--backend says {options.backend} and --kernels {kernels}; give one.")
    return kernels


def loading(options: Options, chosen: Config, environment: Environment) -> "Load":
    """Loads a model for what the options and the configuration say of drafts."""
    findings = kept_row_findings(environment.variables, options.keep)
    return partial(load_model, draft=options.draft or chosen.draft, findings=findings)
