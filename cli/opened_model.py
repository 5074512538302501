"""A model that loads or is loaded, as the rest of the program holds it."""

from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as StillRunning
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING, cast

from dsv4_mlx.chat.effort import find_effort_table
from dsv4_mlx.chat.settings import ChatSettings
from dsv4_mlx.release.identity import name_of

if TYPE_CHECKING:
    from cli.ranks.far_side import FarEngine
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.engine.draft_choice import DraftChoice
    from dsv4_mlx.engine.engine import Engine
    from dsv4_mlx.weights.checkpoint import ModelFolder

    Opened = tuple[Engine | FarEngine, Tokenizer]

_LOOK_S = 0.05


@dataclass
class OpenedModel:
    """One model, loading or loaded."""

    folder: Path
    settings: ChatSettings
    opening: "Future[Opened]"
    opened: "ModelFolder | None" = None
    """The folder's files; None for a script that stands in the place of one."""
    title: str = ""
    """Its name where that is not the folder's."""
    expert_memory: int | None = None
    """Bytes for routed experts where the others stay in files; None where all are loaded."""
    _is_told: bool = False

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.title or name_of(self.folder)

    @property
    def is_embedded(self) -> bool:
        """Whether it is the one that comes with the program."""
        return not self.title and self.folder == embedded_model()

    @property
    def is_remote(self) -> bool:
        """Whether a server has it, which holds what is read and does not tell."""
        return False

    @property
    def assumed(self) -> str | None:
        """What nothing in a folder of the person's own says, and was assumed."""
        if self.title or self.is_embedded:
            return None
        found = find_effort_table(self.folder)
        differs = found.table != self.settings.effort_table  # so it was given
        return None if differs or found.known_by != "assumed" else found.sentence

    @property
    def place(self) -> str:
        """Where it is, however the folder was spelled; bytes that are no UTF-8 as `\\udcff`."""
        return str(self.folder.resolve()).encode("utf-8", "backslashreplace").decode()

    @property
    def backend(self) -> str | None:
        """What it runs on, once it is loaded."""
        return self._engine.backend if self._is_loaded else None

    @property
    def wired(self) -> int:
        """Bytes that stay resident in memory for it, once it is loaded."""
        return 0 if self.backend is None else self._engine.memory.wired

    def notes(self) -> list[str]:
        """Sentences about how it runs, once it is loaded; each is told once."""
        if self._is_told or not self._is_loaded:
            return []
        self._is_told = True
        engine = self._engine
        sentences = [engine.memory.problem] if engine.memory.problem else []
        sentences += engine.notes
        if (found := engine.row_finding) is not None and found.reason:
            sentences.append(f"drafts are off unless --draft names one: {found.reason}")
        if engine.drafting.not_loaded:
            sentences.append(engine.drafting.not_loaded)
        if self.expert_memory is not None:
            sentences += _said_of_experts(cast("Engine", engine), self.expert_memory)
        if engine.left_out:
            sentences.append(f"kernels left out: {left_out_sentence(engine.left_out)}")
        return sentences

    def why_not(self, command: str) -> str:
        """Why this model cannot do what the slash command `command` is for; "" where it can."""
        return ""

    def why_no_drafts(self, kind: "DraftChoice") -> str:
        """Why nothing drafts with this model where `kind` is chosen; "" until it is loaded."""
        return "" if self.backend is None else self._engine.drafting.why_off(kind)

    @property
    def _is_loaded(self) -> bool:
        return self.opening.done() and self.opening.exception() is None

    @property
    def _engine(self) -> "Engine | FarEngine":
        return self.opening.result()[0]

    def close(self) -> None:
        """Let go of the weights, whoever still holds this."""
        self.opening = Future()

    def failed_with(self, error: BaseException) -> bool:
        """Whether `error` is why it could not be loaded."""
        return self.opening.done() and self.opening.exception() is error

    def wait(self, stop: Flag) -> "Opened":
        """The loaded model; KeyboardInterrupt as soon as `stop` is set."""
        while not stop.is_set():
            try:
                return self.opening.result(timeout=_LOOK_S)
            except StillRunning:
                if self.opening.done():
                    raise
        raise KeyboardInterrupt


def left_out_sentence(kernels: Sequence[str]) -> str:
    """What leaving kernels out means, for people."""
    return f"{', '.join(kernels)} (references run instead, slower)"


def embedded_model() -> Path:
    """The folder of the small model that comes with the program."""
    import dsv4_mlx

    return Path(dsv4_mlx.__file__).parent / "nano"


def _said_of_experts(engine: "Engine", memory: int) -> list[str]:
    """What is in memory of experts, where not all are."""
    from cli.machine.expert_memory import sentences

    use = engine.expert_use
    return [] if use is None else sentences(engine.config, use.slots, memory)
