"""The controller: takes what a person sends, one text at a time, and carries it out on a chat.

It runs on its own thread beside the one that draws, and reads like a script: every text that is
sent is carried out before the next is taken. What commands do stands in cli/commands.
"""

from cli.environment import ExitStatus
from cli.show.surface import Verbatim
from cli.standard_output import UnwrittenError
from cli.talk.chat import Chat
from cli.talk.commands import named
from cli.talk.commands.compact import look_at_fullness
from cli.talk.typed_command import run_command
from dsv4_mlx.errors import Dsv4Error, PipelineError, UsageError


def control(chat: Chat) -> ExitStatus:
    """Carry out what is sent until /quit, Ctrl-D or a lost terminal; then everything is kept.

    Raises CheckpointError and its like when the model turns out not to load.
    """
    chat.show_status()
    try:
        for text in chat.surface.submissions():
            _obey(chat, text)
            if chat.left:
                break
    finally:
        chat.close()
    return ExitStatus.OK


def _obey(chat: Chat, text: str) -> None:
    chat.stop.clear()
    try:
        _carry_out(chat, text)
        if not chat.is_stopped():
            look_at_fullness(chat)
    except KeyboardInterrupt:
        chat.note("stopped")
    except (BrokenPipeError, UnwrittenError):
        raise  # nobody can read the answers
    except Dsv4Error as error:
        if chat.model.failed_with(error) and chat.models.ranks is None:
            raise
        chat.view.error(str(error))
        if isinstance(error, PipelineError) and chat.models.ranks is not None:
            chat.note("/restart starts both ranks again and goes on with this conversation")
    except OSError as error:
        chat.view.error(f"{error.filename or 'input or output'}: {error.strerror}.")
    chat.show_status()


def _carry_out(chat: Chat, text: str) -> None:
    if isinstance(text, Verbatim):
        chat.send(text)
    elif text.startswith("/"):
        name, _, argument = text[1:].partition(" ")
        command = named(name.strip())
        if why := chat.model.why_not(command.name):
            raise UsageError(why)
        command.action(chat, argument.strip())
    elif text.startswith("!"):
        run_command(chat, text[1:].strip())
    elif text.strip():
        chat.send(text)
