"""Commands that copy what was said to the clipboard."""

from typing import TYPE_CHECKING

from cli.talk.commands.command import Command, whole
from dsv4_mlx.errors import UsageError

if TYPE_CHECKING:
    from cli.talk.chat import Chat


def _copy(chat: "Chat", argument: str) -> None:
    from cli.talk import clipboard

    words = argument.split()
    if words and (words[0] != "code" or len(words) > 2):
        raise UsageError(f"/copy takes code, code N or nothing, got {argument!r}.")
    answer = _last_answer(chat)
    if words:
        _copy_code(chat, answer, words[1] if len(words) == 2 else "")
    else:
        chat.note(clipboard.copy(answer))


def _last_answer(chat: "Chat") -> str:
    answers = [
        m
        for m in chat.branch.messages(chat.preferences.system)
        if m["role"] == "assistant" and m.get("content")
    ]
    if not answers:
        raise UsageError("there is no answer to copy yet.")
    return str(answers[-1]["content"])


def _copy_code(chat: "Chat", answer: str, number: str) -> None:
    from cli.show.markdown.code import code_blocks
    from cli.talk import clipboard

    blocks = code_blocks(answer)
    if not blocks:
        raise UsageError("the last answer has no code block; /copy copies all of it.")
    chosen = whole(number, "copy code") if number else len(blocks)
    if chosen > len(blocks):
        raise UsageError(f"there is no code block {chosen}; the last answer has {len(blocks)}.")
    code = blocks[chosen - 1]
    lines = f"{code.lines:,} line{'' if code.lines == 1 else 's'}"
    what = ", ".join(part for part in (code.language, lines) if part)
    chat.note(f"code block {chosen} of {len(blocks)}, {what}: {clipboard.copy(code.text)}")


COMMANDS = (
    Command(
        "copy",
        "[code [N]]",
        "copy the last answer, or a code block of it",
        _copy,
        lambda chat: ("code",),
    ),
)
