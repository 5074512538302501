"""A service for an opened model: how much memory and disk it has for what was read."""

import fcntl
import os
from typing import TYPE_CHECKING, Final

from cli.config import Config
from cli.environment import Environment
from cli.kept.private_files import NoHome, private_folder, state_home
from cli.opened_model import OpenedModel
from cli.serve.options import ServeOptions
from cli.show.output import PlainOutput
from dsv4_mlx.files.file_systems import FileSystem

if TYPE_CHECKING:
    from pathlib import Path

    from cli.ranks.far_service import FarEngine
    from cli.serve.served_model import ServedHere
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.engine.engine import Engine
    from dsv4_mlx.serving.service_settings import ServiceSettings

FOLDER: Final = "served"


class ServiceMaker:
    """Makes the services of one command line."""

    def __init__(self, given: ServeOptions, environment: Environment, chosen: Config) -> None:
        self._given, self._environment, self._chosen = given, environment, chosen
        self._opened: OpenedModel | None = None
        self.folder = self._own_folder()
        """Where what outlives the program lies; None where nothing is to, or another server has
        it."""

    def opened(self, model: OpenedModel) -> OpenedModel:
        """Remember the model that `service` is for."""
        self._opened = model
        return model

    @property
    def settings(self) -> "ServiceSettings":
        """How any model is served, in this process or in that of a rank."""
        from dsv4_mlx.serving.service_settings import ServiceSettings

        return ServiceSettings(
            kv=self._given.options.kv or "compact",
            most_waiting=self._given.max_waiting,
            cache_budget=self._given.cache_budget,
            folder=None if self.folder is None else str(self.folder),
            disk_bytes=self._chosen.session_kv_bytes,
        )

    def service(self, engine: "Engine | FarEngine", tokenizer: "Tokenizer") -> "ServedHere":
        """A service on the thread of its model; where that lies on two machines, what stands for
        the one in rank 0's program."""
        from cli.ranks.far_service import FarEngine, FarService
        from cli.ranks.prompts_away import PromptsAway

        assert self._opened is not None
        table = self._opened.settings.effort_table
        if isinstance(engine, FarEngine):
            return FarService(engine, tokenizer, PromptsAway(tokenizer, table, self.folder))
        return self.settings.service(engine, tokenizer, table, self._memory())

    def _memory(self) -> int:
        """Bytes for timelines, in all."""
        assert self._opened is not None
        folder = self._opened.opened
        if folder is None:  # a script
            return 1 << 62
        from cli.machine.expert_memory import fit_of

        options = self._given.options
        backend, pools = options.backend or "auto", self._opened.expert_memory
        fit = fit_of(folder.checkpoint, pools, options.kv or "compact", backend=backend)
        return 1 << 62 if fit.limit is None else max(0, fit.limit - fit.needed(0))

    def _own_folder(self) -> "Path | None":
        if not self._given.options.keep:
            return None
        try:
            folder = private_folder(state_home(self._environment.variables) / FOLDER, FileSystem())
        except NoHome:
            return None
        # Held as long as the program runs, whatever ends it.
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            PlainOutput(self._environment).note(
                f"[another server keeps what it read in {folder}; this one keeps nothing on disk]"
            )
            return None
        return folder
