"""The model of a running server in the place of one that is opened here."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING, Any, Final, cast

from cli.environment import KEY_VARIABLE, Environment
from cli.models import Models
from cli.opened_model import OpenedModel
from cli.options import Options
from cli.remote.client import ServerClient, ServerError, ServerPlace
from cli.remote.remote_side import RemoteSide
from cli.worker import Worker
from dsv4_mlx.chat.conversation import Conversation
from dsv4_mlx.chat.effort import EFFORT_TABLES, EffortTable
from dsv4_mlx.chat.settings import ChatSettings, Thinking, max_context_sentence
from dsv4_mlx.engine.sampling import RANGES, Sampling
from dsv4_mlx.errors import UsageError

if TYPE_CHECKING:
    from dsv4_mlx.chat.answer_settings import AnswerSettings
    from dsv4_mlx.chat.turns import Turn
    from dsv4_mlx.engine.draft_choice import DraftChoice

_CONTEXT = 131_072
"""What is taken for the context of a server that does not tell it."""
_LOCAL_ONLY: Final = {
    "model": "--model",
    "engine": "--engine",
    "hosts": "--hosts",
    "backend": "--backend",
    "kernels": "--kernels",
    "kv": "--kv",
    "prefill_chunk": "--prefill-chunk",
    "compile": "--no-compile",
    "effort_table": "--effort-table",
    "expert_memory": "--expert-memory",
    "expert_trace": "--expert-trace",
    "draft": "--draft",
    "draft_max": "--draft-max",
    "loop": "--loop",
    "disk": "--disk",
}
_ONE_MODEL: Final = "the model is the server's; start without --server to open another."
_COMMANDS: Final = {
    "draft": "the server decides what guesses tokens ahead; it is started with --draft.",
    "loop": "the server decides what becomes of a reply that repeats; it is started with --loop.",
    "restart": "the model runs in the server; start that again, and this goes on.",
}


def check_remote_options(options: Options) -> None:
    """UsageError for what only a model that is opened here takes."""
    usual = Options()
    wrong = [
        option
        for name, option in _LOCAL_ONLY.items()
        if getattr(options, name) != getattr(usual, name)
    ]
    if wrong:
        raise UsageError(
            f"{wrong[0]} is about a model that is opened here, and --server takes the server's; "
            "give one of them."
        )


@dataclass
class RemoteModel(OpenedModel):
    """The server's model."""

    address: str = ""

    @property
    def is_remote(self) -> bool:
        return True

    @property
    def place(self) -> str:
        """The server and the model's name there."""
        return f"{self.address} {self.title}"

    def why_not(self, command: str) -> str:
        """What of it is the server's to decide."""
        return _COMMANDS.get(command, "")


class _RemoteMemory:
    """Of the server; nothing is held here."""

    problem = ""
    wired = 0


class _RemoteDrafting:
    """What guesses tokens ahead in the server is its own matter."""

    not_loaded = ""

    def why_off(self, kind: "DraftChoice") -> str:
        return _COMMANDS["draft"]


class RemoteEngine:
    """What a loaded model says of itself; see `dsv4_mlx.engine.engine.Engine` for the names."""

    row_finding = None
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.memory, self.drafting = _RemoteMemory(), _RemoteDrafting()


class RemoteTokenizer:
    """Counts as the server does; it splits nothing here."""

    def __init__(self, side: RemoteSide) -> None:
        self._side = side
        self._frame: int | None = None
        """Tokens around a text."""

    def encode(self, text: str) -> range:
        """As many places as `text` has tokens; none where the server does not say."""
        from dsv4_mlx.chat.answer_settings import AnswerSettings

        plain = AnswerSettings(Thinking("chat"))
        try:
            if self._frame is None:
                self._frame = self._side.prompt_tokens((), "a", plain) - 1
            return range(self._side.prompt_tokens((), text, plain) - self._frame if text else 0)
        except (ServerError, UsageError):
            return range(0)


def remote_models(worker: Worker, options: Options, environment: Environment) -> "RemoteModels":
    """The models of the server that `options` name; UsageError for what names none."""
    key = environment.variables.get(KEY_VARIABLE, "")
    return RemoteModels(worker, options, ServerClient(ServerPlace.of(options.server or ""), key))


class RemoteModels(Models):
    """The one model of a server, for one run."""

    def __init__(self, worker: Worker, options: Options, client: ServerClient) -> None:
        def nothing(*_: Any) -> Any:
            raise UsageError(_ONE_MODEL)

        super().__init__(worker, replace(options, engine=None), nothing)
        self._client, self._run = client, worker.submit

    def first(self, folder: Path) -> OpenedModel:
        """The server's model, whatever `folder` is; ServerError where there is none."""
        entry = first_model(self._client)
        name, settings = str(entry["id"]), chat_settings(entry)
        side = RemoteSide(self._client, name, settings, ())
        opening: Future[Any] = Future()
        opening.set_result((RemoteEngine("server"), RemoteTokenizer(side)))
        return RemoteModel(
            Path(name), settings, opening, title=name, address=str(self._client.place)
        )

    def open(self, folder: Path, release: Callable[[], None] = lambda: None) -> OpenedModel:
        """UsageError: a server has one model."""
        raise UsageError(_ONE_MODEL)

    def conversation(
        self,
        model: OpenedModel,
        settings: "AnswerSettings",
        turns: "Sequence[Turn]" = (),
        stop: Flag | None = None,
        tell: Callable[[str], None] = lambda sentence: None,
    ) -> Conversation:
        """A conversation with the server's model that begins with `turns`."""
        _, tokenizer = model.wait(stop or Flag())
        side = RemoteSide(self._client, model.title, model.settings, turns)
        return Conversation(None, tokenizer, settings, submit=self._run, side=side)

    def max_level_note(self, model: OpenedModel) -> str:
        """What thinking level max needs of the context."""
        return max_context_sentence(model.settings)


def first_model(client: ServerClient) -> Mapping[str, Any]:
    """What the server says of its model, the first where it has several; ServerError."""
    found = client.get("/v1/models")
    entries = found.get("data") if isinstance(found, Mapping) else None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("id"), str):
            return entry
    raise ServerError(f"{client.place} names no model.")


def chat_settings(entry: Mapping[str, Any]) -> ChatSettings:
    """Levels, context and sampling, as far as the server tells them."""
    table = entry.get("effort_table")
    known: EffortTable = cast("EffortTable", table) if table in EFFORT_TABLES else EFFORT_TABLES[0]
    lengths = (entry.get(name) for name in ("context_length", "max_model_len", "max_input_tokens"))
    context = next((length for length in lengths if isinstance(length, int) and length > 0), 0)
    told = entry.get("sampling")
    told = told if isinstance(told, Mapping) else {}
    sampling = {name: told[name] for name, allowed in RANGES.items() if told.get(name) in allowed}
    found = ChatSettings(known, context or _CONTEXT, Sampling(**sampling))
    level = entry.get("reasoning_level")
    return replace(found, level=level) if level in found.levels else found
