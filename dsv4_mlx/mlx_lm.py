"""The door to mlx-lm: its commands and its functions, with our model and the official encoder.

    python -m dsv4_mlx.mlx_lm generate --model PATH --prompt "Hello"
    python -m dsv4_mlx.mlx_lm server --model PATH

In a program, call `register()` once and use mlx-lm as usual. Official folders load as well as
converted ones, and no code is put into either. This is the only module of ours that imports mlx_lm
and, with it, transformers: that takes seconds, so nothing else waits for it.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx_lm.cli
import mlx_lm.models.cache
import mlx_lm.server
import mlx_lm.utils
from mlx_lm.tokenizer_utils import TokenizerWrapper

from dsv4_mlx import loading, mlx_lm_server
from dsv4_mlx.cache import LayerCache
from dsv4_mlx.chat.effort import EffortTable, detect_effort_table
from dsv4_mlx.chat.encoding import Prompt, encode_messages
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.chat.parsing import ReplyParser
from dsv4_mlx.chat.requests import check_template_fields, level_asked, read_messages
from dsv4_mlx.chat.settings import thinking_at
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.tokens import ASSISTANT, DSML, END_THINK, THINK
from dsv4_mlx.errors import Dsv4Error, KernelError, UsageError
from dsv4_mlx.files.documents import parse_json
from dsv4_mlx.model import v4 as model
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.spellings import config_of
from dsv4_mlx.weights.checkpoint import open_checkpoint

MODEL_TYPE = "deepseek_v4"

# What mlx-lm calls when the folder is not one of ours; kept from before `register`.
_load_other_model: Callable[..., Any] = mlx_lm.utils.load_model
_load_other_tokenizer: Callable[..., Any] = mlx_lm.utils.load_tokenizer
_folder_of_repository: Callable[..., Path] = mlx_lm.utils.hf_repo_to_path


# What says of an error of MLX which kernel is to blame, by the models that were loaded here.
_explains: list[Callable[[BaseException], None]] = []


@dataclass(frozen=True)
class ModelArgs:
    """The config as mlx-lm hands it to a model class."""

    config: DeepseekV4Config
    model_type: str = MODEL_TYPE

    @classmethod
    def from_dict(cls, params: dict[str, Any]) -> "ModelArgs":
        """From config.json; ConfigError for keys that no V4 has."""
        return cls(config_of(params))


class Model(model.Model):
    """Our model, made the way mlx-lm makes models."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args.config)
        self.args, self.model_type = args, MODEL_TYPE


def register() -> None:
    """Teach mlx-lm of this process our model, cache, tokenizer and tool calls. Idempotent."""
    sys.modules[f"mlx_lm.models.{MODEL_TYPE}"] = sys.modules[__name__]
    # load_prompt_cache looks classes up by name among its own globals.
    vars(mlx_lm.models.cache)["LayerCache"] = LayerCache
    # mlx-lm's loader knows neither the release's formats nor our strictness, so folders of ours
    # are read by `dsv4_mlx.loading`. Its other functions look both names up when they run.
    vars(mlx_lm.utils).update(load_model=load_model, load_tokenizer=load_tokenizer)
    mlx_lm_server.teach(mlx_lm.server, lambda tokenizer: isinstance(tokenizer, ChatTokenizer))


def load_model(
    model_path: Path,
    lazy: bool = False,
    strict: bool = True,
    model_config: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """mlx-lm's function of this name; official and converted folders of V4 go through ours."""
    config = mlx_lm.utils.load_config(Path(model_path))
    if config.get("model_type") != MODEL_TYPE:
        other: tuple[Any, dict[str, Any]] = _load_other_model(
            model_path, lazy, strict, model_config, **options
        )
        return other
    if (model_config or {}).get("quantize_activations"):
        raise UsageError("DeepSeek-V4 runs with its activations unquantized; leave that option.")
    loaded = loading.load_model(open_checkpoint(model_path))
    loaded.eval()
    if loaded.explain is not None:
        _explains.append(loaded.explain)
    return loaded, config | (model_config or {})


def load_tokenizer(
    model_path: str | Path, tokenizer_config_extra: dict[str, Any] | None = None, **options: Any
) -> TokenizerWrapper:
    """mlx-lm's function of this name; for folders of V4 the official encoder is the template."""
    wrapper: TokenizerWrapper = _load_other_tokenizer(model_path, tokenizer_config_extra, **options)
    folder = Path(model_path)
    if not folder.is_dir():  # the name of a repository, downloaded by now
        folder = _folder_of_repository(model_path)
    if mlx_lm.utils.load_config(folder).get("model_type") != MODEL_TYPE:
        return wrapper
    return ChatTokenizer(wrapper, Tokenizer(folder), detect_effort_table(folder))


class RenderedPrompt(str):
    """A prompt as text that remembers which of its control tokens are meant."""

    prompt: Prompt


class ChatTokenizer(TokenizerWrapper):
    """mlx-lm's tokenizer with the official encoder in the place of a chat template.

    A template of the checkpoint's own is not used: as text it could not tell a control token from
    its spelling in a message.
    """

    def __init__(
        self, wrapper: TokenizerWrapper, ours: Tokenizer, effort_table: EffortTable
    ) -> None:
        super().__init__(
            wrapper._tokenizer,
            lambda _: wrapper.detokenizer,
            wrapper.eos_token_ids,
            chat_template=self.render,
            tool_call_start=f"<{DSML}tool_calls>",
            tool_call_end=f"</{DSML}tool_calls>",
            tool_parser=parse_tool_call,
        )
        self._ours = ours
        self._effort_table = effort_table

    def apply_chat_template(
        self, *args: Any, tokenize: bool = True, **kwargs: Any
    ) -> list[int] | RenderedPrompt:
        """Token ids, or text that `encode` turns into the same ids; the rest goes to `render`."""
        kwargs.pop("return_dict", None)
        rendered = self.render(*args, **kwargs)
        return self.encode(rendered) if tokenize else rendered

    def encode(self, text: str, **options: Any) -> list[int]:
        """Token ids. In text that is no rendered prompt a control token's spelling is that token,
        as everywhere in mlx-lm."""
        if isinstance(text, RenderedPrompt):
            return self._ours.encode(text.prompt)
        tokens: list[int] = self._tokenizer.encode(text, **options)
        return tokens

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        enable_thinking: object = None,
        thinking: object = None,
        reasoning_effort: object = None,
        drop_thinking: bool = True,
        effort_table: EffortTable | None = None,
        **unknown: Any,
    ) -> RenderedPrompt:
        """The official encoder's prompt. Messages, switches and efforts are spelled as other
        programs do, see `dsv4_mlx.chat.requests`. UsageError for a word that means no level.
        """
        check_template_fields(
            {"drop_thinking": drop_thinking, "effort_table": effort_table, **unknown}
        )
        table = effort_table or self._effort_table
        switches = (("enable_thinking", enable_thinking), ("thinking", thinking))
        level = level_asked(table, switches, [("reasoning_effort", reasoning_effort)])
        chosen = thinking_at(level, table)
        messages = read_messages(messages)
        prompt = encode_messages(
            _with_tools(_unfinished(messages) if continue_final_message else messages, tools),
            thinking_mode=chosen.mode,
            reasoning_effort=chosen.effort,
            drop_thinking=drop_thinking,
            effort_table=table,
        )
        if not add_generation_prompt and not continue_final_message:
            prompt = _without_generation_prompt(prompt)
        rendered = RenderedPrompt(prompt)
        rendered.prompt = prompt
        return rendered


def _with_tools(
    messages: Sequence[dict[str, Any]], tools: list[dict[str, Any]] | None
) -> list[dict[str, Any]]:
    """The encoder reads tools off the system message."""
    if not tools:
        return list(messages)
    first, *rest = messages
    if first.get("role") != "system":
        first, rest = {"role": "system", "content": ""}, list(messages)
    return [{**first, "tools": tools}, *rest]


def _unfinished(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*messages[:-1], {**messages[-1], "wo_eos": True}]


def _without_generation_prompt(prompt: Prompt) -> Prompt:
    kept = list(prompt.segments)
    for ending in ((THINK, END_THINK), (ASSISTANT,)):
        if kept and kept[-1].is_control and kept[-1].text in ending:
            kept.pop()
    return Prompt(kept)


def parse_tool_call(text: str, tools: Any = None) -> list[dict[str, Any]]:
    """The calls in the inside of a tool-calls block, as mlx-lm's server asks for them.

    mlx-lm hands over text, in which every spelling of a control token counts as that token;
    `tools` are the request's definitions. Raises ValueError when there is no call.
    """
    known = [tool for tool in tools or () if isinstance(tool, dict)]
    parser = ReplyParser("chat", tools=known)
    events = parser.feed(f"<{DSML}tool_calls>{text}</{DSML}tool_calls>") + parser.finish()
    calls = [event for event in events if isinstance(event, ToolCall)]
    if not calls:
        raise ValueError(f"No tool call in {text[:60]!r}.")
    return [{"name": call.name, "arguments": parse_json(call.arguments)} for call in calls]


def main() -> None:
    """Run the mlx-lm command named on the command line."""
    if len(sys.argv) < 2:
        print("usage: python -m dsv4_mlx.mlx_lm COMMAND ... (--help lists them)", file=sys.stderr)
        sys.exit(2)
    register()
    try:
        mlx_lm.cli.main()  # type: ignore[no-untyped-call]
    except Dsv4Error as error:
        sys.exit(f"dsv4_mlx.mlx_lm: {error}")
    except (RuntimeError, ValueError) as error:
        if (sentence := _about_kernels(error)) is None:
            raise
        sys.exit(f"dsv4_mlx.mlx_lm: {sentence}")


def _about_kernels(error: BaseException) -> KernelError | None:
    """What the model loaded last says of an error of MLX; None where no kernel is to blame."""
    try:
        for explain in _explains[-1:]:
            explain(error)
    except KernelError as found:
        return found
    return None


if __name__ == "__main__":
    # As __main__ this file would be a second module, with classes of its own.
    from dsv4_mlx.mlx_lm import main as registered_main

    registered_main()
