"""Opening models: the chat side of a folder at once, its weights on the worker's thread."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING, cast

from cli.opened_model import OpenedModel
from cli.options import Options
from cli.worker import Worker
from dsv4_mlx.chat.effort import EffortTable
from dsv4_mlx.chat.settings import ChatSettings, max_context_sentence
from dsv4_mlx.errors import CheckpointError, ConfigError, UsageError
from dsv4_mlx.files.paths import user_path

if TYPE_CHECKING:
    from cli.kept.draft_times import DraftTimes
    from cli.kept.expert_uses import ExpertUses
    from cli.kept.row_findings import RowFindings
    from cli.opened_model import Opened
    from cli.ranks.far_side import FarEngine
    from cli.ranks.starting import RankPair
    from dsv4_mlx.chat.answer_settings import AnswerSettings
    from dsv4_mlx.chat.conversation import Conversation, Prefixes, Turn
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.device.memory import HeldMemory
    from dsv4_mlx.engine.draft_choice import DraftChoice
    from dsv4_mlx.engine.engine import Engine
    from dsv4_mlx.sizing.costs import Kv
    from dsv4_mlx.weights.checkpoint import ModelFolder

    Load = Callable[[ModelFolder, Options], tuple[Engine, Tokenizer]]


class Models:
    """Opens models for one run."""

    def __init__(
        self,
        worker: Worker,
        options: Options,
        open_model: "Load",
        *,
        prefixes: "Callable[[Engine], Prefixes | None]" = lambda engine: None,
        snapshot_bytes: int | None = None,
        draft_times: "Callable[[Engine], DraftTimes | None]" = lambda engine: None,
        expert_uses: "ExpertUses | None" = None,
        ranks: "RankPair | None" = None,
        open_first: "Callable[[], tuple[Engine, Tokenizer]] | None" = None,
    ) -> None:
        """`prefixes` gives the stored beginnings of prompts that fit an engine; `snapshot_bytes`
        bounds what a conversation holds to go back; `draft_times` keeps what drafts took,
        `expert_uses` what replies found of experts in files. `ranks` run the models instead of
        this process; `open_first` opens rank 0's part of one in it."""
        self._worker = worker
        self._options = options
        self._open_model = open_model
        self._prefixes = prefixes
        self._snapshot_bytes = snapshot_bytes
        self._draft_times = draft_times
        self._expert_uses = expert_uses
        self.ranks = ranks
        self._open_first = open_first
        self._held: HeldMemory | None = None  # of the model that was loaded last
        self._script = None if options.engine is None else script_file(options.engine)

    def first(self, folder: Path) -> OpenedModel:
        """Begin to load the model that the run starts with: the script that stands in its place, or
        the one in `folder`. Raises as `open` does."""
        return self.open(self._script or folder)

    def open(self, folder: Path, release: Callable[[], None] = lambda: None) -> OpenedModel:
        """Begin to load the checkpoint in `folder`; `release` is called once that is sure, and lets
        go of the model before it, since two may not fit into memory.

        Raises CheckpointError or ConfigError when it is no DeepSeek-V4 checkpoint, and UsageError
        with figures when it cannot fit into this machine's memory.
        """
        asked = self._options.effort_table
        table = None if asked == "auto" else cast(EffortTable, asked)
        if folder == self._script:
            return self._scripted(folder, table, release)
        from cli.machine.expert_memory import bytes_for_experts
        from dsv4_mlx.weights.checkpoint import open_folder

        opened = open_folder(folder)
        settings = ChatSettings.of(opened, table)
        pools, memory = None, self._options.expert_memory
        if self.ranks is None and self._open_first is None:
            memory = "auto" if memory is None else memory
            pools = bytes_for_experts(opened, memory, self._kv, backend=self._backend)
        options = replace(self._options, expert_memory=pools)
        release()
        opening = self._worker.submit(lambda: self._opened(opened, settings, options))
        return OpenedModel(opened.folder, settings, opening, opened, expert_memory=pools)

    def conversation(
        self,
        model: OpenedModel,
        settings: "AnswerSettings",
        turns: "Sequence[Turn]" = (),
        stop: Flag | None = None,
        tell: Callable[[str], None] = lambda sentence: None,
    ) -> "Conversation":
        """A conversation with `model` that begins with `turns`; waits until the model is loaded,
        and raises KeyboardInterrupt as soon as `stop` is set. `tell` gets what is worth saying of
        how it runs."""
        from dsv4_mlx.chat.conversation import Conversation

        engine, tokenizer = model.wait(stop or Flag())
        for sentence in model.notes():
            tell(sentence)
        submit = self._worker.submit
        if self.ranks is not None:
            side = cast("FarEngine", engine).side(turns)
            return Conversation(None, tokenizer, settings, submit=submit, side=side)
        here = cast("Engine", engine)
        return Conversation(
            here,
            tokenizer,
            settings,
            effort_table=model.settings.effort_table,
            turns=turns,
            prefixes=self._prefixes(here),
            submit=submit,
        )

    def max_level_note(self, model: OpenedModel) -> str:
        """What thinking level max needs of the context and of memory."""
        from cli.machine.expert_memory import fit_of

        if model.opened is not None:
            with suppress(CheckpointError, ConfigError):  # loading it says what is wrong
                checkpoint, pools = model.opened.checkpoint, model.expert_memory
                fit = fit_of(checkpoint, pools, self._kv, backend=self._backend)
                return fit.max_level_sentence()
        return max_context_sentence(model.settings)

    @property
    def _kv(self) -> "Kv":
        return self._options.kv or "compact"

    @property
    def _backend(self) -> str:
        return self._options.backend or "auto"

    def _scripted(
        self, file: Path, table: EffortTable | None, release: Callable[[], None]
    ) -> OpenedModel:
        """Answers from a script, for demonstrations and tests."""
        from dsv4_mlx.scripted.script import read_script

        script = read_script(file)
        settings = replace(script.settings, effort_table=table or script.effort_table)
        release()
        opening = self._worker.submit(lambda: self._opened_script(file, settings))
        return OpenedModel(file, settings, opening, title=script.name)

    def _opened_script(self, file: Path, settings: ChatSettings) -> "Opened":
        from dsv4_mlx.scripted.engine import NANO, open_scripted

        if self.ranks is not None:
            return self._far(NANO, settings)
        return open_scripted(file) if self._open_first is None else self._open_first()

    def _far(self, folder: Path, settings: ChatSettings) -> "Opened":
        """The model in `folder`, or the script, on two machines."""
        from dsv4_mlx.chat.tokenizer import Tokenizer

        assert self.ranks is not None
        tokenizer = Tokenizer(folder)
        return self.ranks.open(str(folder.resolve()), settings.effort_table), tokenizer

    def _opened(self, folder: "ModelFolder", settings: ChatSettings, options: Options) -> "Opened":
        if self.ranks is not None:
            return self._far(folder.folder, settings)
        if self._open_first is not None:
            return self._open_first()
        if self._held is not None:
            self._held.release()
        engine, tokenizer = self._open_model(folder, options)
        self._held = engine.memory
        if self._snapshot_bytes is not None:
            engine.snapshot_bytes = self._snapshot_bytes
        engine.drafting.kept = self._draft_times(engine)
        if self._expert_uses is not None:
            engine.on_expert_use = self._expert_uses.of_run(folder.folder)
        return engine, tokenizer


def script_file(engine: str) -> Path:
    """The file of `fake:FILE`; UsageError for anything else."""
    kind, _, file = engine.partition(":")
    if kind != "fake" or not file:
        raise UsageError(f"--engine takes fake:FILE, got {engine!r}.")
    return user_path(file)


def load_model(
    folder: "ModelFolder",
    options: Options,
    *,
    draft: "DraftChoice" = "auto",
    findings: "RowFindings | None" = None,
) -> "tuple[Engine, Tokenizer]":
    """Load the checkpoint in `folder`; for the worker's thread.

    Where something drafts on a GPU, which `draft` and the checkpoint decide, the load finds how
    many rows a pass may have, or has it from `findings`.
    """
    from cli.machine.memory import drafts_here
    from cli.machine.residency import slow_memory
    from dsv4_mlx import loading
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.engine.engine import Engine
    from dsv4_mlx.weights.expert_trace import trace_experts

    backend, kv = options.backend or "auto", options.kv or "compact"
    compiled = None if options.compile else False
    test = loading.RowTest(findings, compiled, without_weights=draft == "lookup")
    loaded, not_loaded = drafts_here(folder, draft, kv, backend=backend)
    # A problem with memory is told where it does not disturb what is on the screen.
    model = loading.load_model(
        folder.checkpoint,
        backend=backend,
        kv=kv,
        drafts=loaded,
        rows=None if draft == "off" else test,
        expert_memory=None if options.expert_memory == "auto" else options.expert_memory,
        say=lambda _: None,
    )
    if draft == "auto" and model.exact_rows < 2:
        model.drop_stages()  # which nothing but a demand would use
    if options.expert_trace is not None:
        trace_experts(model, options.expert_trace)
    engine = Engine(model, prefill_chunk=options.prefill_chunk, compiled=compiled)
    engine.drafting.not_loaded = not_loaded
    engine.notes = slow_memory(engine, folder.folder)
    return engine, Tokenizer(folder.folder)
