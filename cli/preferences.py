"""How a conversation is led: what can be set while it runs, and kept with it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from cli.config import Config
from cli.options import Options
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.loops import LOOPS, Loops
from dsv4_mlx.chat.settings import ChatSettings
from dsv4_mlx.engine.draft_choice import DRAFT_CHOICES, DraftChoice
from dsv4_mlx.engine.draft_history import MOST_DRAFTS
from dsv4_mlx.engine.sampling import RANGES, Range
from dsv4_mlx.errors import UsageError


@dataclass(frozen=True)
class Preferences:
    """None means: as the checkpoint says, or no limit."""

    think: str | None = None
    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    budget: int | None = None
    tools: bool = False
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    """Texts that end an answer where they would come."""
    loop: Loops = "notice"
    draft: DraftChoice = "auto"
    draft_max: int | None = None

    @classmethod
    def configured(cls, config: Config) -> "Preferences":
        """What the configuration file says."""
        said = {name: getattr(config, name) for name in asdict(cls()) if hasattr(config, name)}
        return cls(**said | {"think": config.thinking})

    def given(self, options: Options) -> "Preferences":
        """These, with what a command line says in their place."""
        said = {name: getattr(options, name) for name in asdict(self)}
        return replace(self, **{name: value for name, value in said.items() if value is not None})

    def kept(self, saved: Mapping[str, Any]) -> "Preferences":
        """These, with what a kept conversation says; names and types that do not fit are left."""
        changes: dict[str, Any] = {}
        for name, default in asdict(Preferences()).items():
            value = saved.get(name, default)
            is_none = value is None and default is None
            if name in saved and (is_none or _fits(name, value)):
                changes[name] = tuple(value) if name == "stop" else value
        return replace(self, **changes)

    def fitting(self, settings: ChatSettings) -> tuple["Preferences", str | None]:
        """These for another checkpoint, and what of them it cannot give."""
        try:
            settings.thinking(self.think)
        except UsageError as error:
            return replace(self, think=None), str(error)
        return self, None

    def at_next_level(self, checkpoint: ChatSettings) -> "Preferences":
        """These at the next thinking level that a checkpoint can give, in a circle."""
        levels = checkpoint.levels
        start = levels.index(checkpoint.thinking(self.think).level)
        for level in (*levels[start + 1 :], *levels[:start]):
            following, problem = replace(self, think=level).fitting(checkpoint)
            if problem is None:
                return following
        return self

    def as_record(self) -> dict[str, Any]:
        """What a conversation's file keeps."""
        return asdict(self)

    def answer_settings(self, checkpoint: ChatSettings) -> AnswerSettings:
        """What the next answer is asked with, but for the tools: these, and where they are silent
        what the checkpoint says. UsageError for a thinking level that it cannot give."""
        said = {name: getattr(self, name) for name in RANGES}
        drawn = {name: value for name, value in said.items() if value is not None}
        return AnswerSettings(
            checkpoint.thinking(self.think),
            system=self.system,
            sampling=replace(checkpoint.sampling, seed=self.seed, **drawn),
            max_tokens=self.max_tokens,
            budget=self.budget,
            stop=self.stop,
            loops=self.loop,
            draft=self.draft,
            draft_max=self.draft_max,
        )


def _fits(name: str, value: object) -> bool:
    if name in ("think", "system"):
        return isinstance(value, str)
    if name == "tools":
        return isinstance(value, bool)
    if name == "stop":
        return isinstance(value, list | tuple) and all(isinstance(v, str) and v for v in value)
    if name == "loop":
        return value in LOOPS
    if name == "draft":
        return value in DRAFT_CHOICES
    if name == "draft_max":
        return value in Range(1, MOST_DRAFTS, whole=True)
    return value in RANGES.get(name, Range(0, whole=True))
