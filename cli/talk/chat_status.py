"""What the status line tells about a conversation."""

from dataclasses import replace

from cli.opened_model import OpenedModel
from cli.show.surface import Status
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.events import Done
from dsv4_mlx.chat.model_side import ContextUse


def status_of(
    model: OpenedModel, settings: AnswerSettings, use: ContextUse | None, done: Done | None
) -> Status:
    """The status of `model`; `settings` are those of the next answer, `use` is of a conversation
    that is open, `done` of the last answer."""
    level = settings.thinking.level
    if settings.budget == 0 and level != "none":
        level += " (budget 0)"
    status = Status(model.name, level, model.backend, wired_bytes=model.wired)
    if use is not None:
        status = replace(
            status,
            used_tokens=use.used,
            context_tokens=use.limit,
            window_bytes=use.window_bytes,
            compressed_bytes=use.compressed_bytes,
            index_bytes=use.index_bytes,
        )
    if done is not None:
        timing = done.timing
        status = replace(
            status,
            tokens_per_s=timing.tokens_per_s,
            tokens_per_pass=None if done.draft is None else done.draft.tokens_per_pass,
            expert_hits=None if done.reply_experts is None else done.reply_experts.hit_rate,
            waited_s=0.0 if done.reply_experts is None else done.reply_experts.waited_s,
            first_token_s=timing.first_token_s,
        )
    return status
