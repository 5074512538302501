"""A !command: runs after a yes, and what it prints goes along with the next message."""

from typing import TYPE_CHECKING

from cli.show.surface import Question
from cli.tools import shell
from dsv4_mlx.errors import UsageError

if TYPE_CHECKING:
    from cli.talk.chat import Chat


def run_command(chat: "Chat", command: str) -> None:
    """Run `command` in the folder of `chat`; UsageError when it is empty or there is no shell."""
    if not command:
        raise UsageError("! takes a command, for example !git diff.")
    if chat.surface.ask(Question("run this command?", (f"$ {command}",))) != "y":
        chat.note("not run")
        return
    ran = shell.run(command, chat.folder, stopped=chat.is_stopped, background=chat.tools.background)
    chat.print_lines(ran.text.splitlines(), at_most=20)
    for sentence in ran.left:
        chat.note(sentence)
    chat.outputs.append(f"$ {command}\n{ran.text.rstrip()}\n[exit status {ran.status}]\n\n")
    chat.note("the output goes along with your next message")
