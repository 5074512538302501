"""docs/terminal.md, written from the commands, keys, options and settings themselves.

    make pages

A test compares the committed page with `page()`, so it says what the program does.
"""

import io
from pathlib import Path

from cli import config
from cli.environment import Environment
from cli.options import help_text
from cli.show.screen.keys import KEYS
from cli.talk.commands import GROUPS

PAGE = Path(__file__).parent.parent / "docs" / "terminal.md"

_HEAD = """\
# The terminal program

Written by `make pages`. `dsv4-chat` opens a prompt; with `-p`, an `@FILE` or text on
stdin it answers once and leaves. In a shell, `make chat ARGS='…'` hands options on.

## At the prompt

The input is always there: what is typed while the model answers is sent when it is done. An answer
is drawn block by block and stays in the terminal's own history; reasoning folds to one line when it
ends. The line above the input tells the thinking level, the model, how full the context is, tokens
per second, the time to the first token and the backend. Until something has been said, nano's first
lines say what it is and how to get Flash; the dim hint in the empty input goes with the first key.

`@path`, `@"a path with spaces"` and `@src/*.py` attach files to the message, and `!command` sends
what a command prints along with the next message, after asking. A word with an @ that names no file
stays text, and a note says so; `\\@` is an @ in any case. Patterns follow no links to folders; one
message may attach 200 files and 4 MiB. A message that begins with a slash or `!` needs a space
before it; lines between `\"\"\"` are one message. Pasted text is text, whatever it begins with; a
long paste is drawn as one label, and an @ in it names no file.

What a command leaves running in the background is named, and ended with the conversation; so is
what the model's `run_command` leaves. A process that begins a session of its own (`setsid`) stays;
on Linux it is named as well.

MCP servers start while the prompt is there already; the first message waits for their tools, at
most 30 seconds or a longer `timeout_s`, and Ctrl-C ends the waiting.

Ctrl-C stops the answer within a token and keeps what was said. `/undo`, `/retry`, `/edit` and
`/fork` go back in the model's cache, which keeps the state of earlier turns (`snapshot_budget` in
the configuration): what is kept is not read again.

`/compact` lets the model summarise the older turns and goes on, in a copy, with that summary and
the last two turns, or fewer where they take more than a quarter of the context. The conversation as
it was stays a branch and a file of its own, and a summary that is stopped or fails changes nothing.
A note tells when the context is four fifths full; `auto_compact` then does it without being asked.

`/search TEXT` finds the turns of all kept conversations that have every word of TEXT, whatever the
case of letters, in what was asked and answered and in what tools were called with and gave; `/found
N` opens one and shows the turn. Of a very large history the newest 256 MiB are searched.

`/stop TEXT` ends answers where TEXT would come, and `/stop` shows what is set; each adds one,
`/stop off` forgets them, and `--stop TEXT` may be given more than once. `\\n`, `\\t` and `\\\\` are
read as a line end, a tab and a backslash, and quotes around TEXT keep spaces at its ends. A stop
text counts in the answer alone, never in reasoning or in a tool call. The conversation goes on from
what was shown: the tokens up to there, and the part of the token in which TEXT began as text.

A note says once when reasoning or an answer runs in a loop: when its last tokens are one passage of
up to 512 tokens, said without any change 64 times in a row and for 1,024 tokens. A passage of 64
tokens or more that is no single line needs 8 times. Lists, tables and code that repeat their shape
are no loop, nor are lines that only count. With `/loop stop` or `--loop stop` the reasoning or the
answer is ended then, with `off` nothing happens.

`/copy code` copies the last fenced block of the last answer, `/copy code 2` the second, without the
fences.
"""

_KEPT = """\
## What is kept

Every conversation is a file of JSON lines in `$DSV4_HOME/sessions`, else
`~/.local/state/dsv4/sessions`, written line by line as things are said, so that nothing finished is
ever lost. Beside it lies a cache file that only saves time: with it, `--continue`, `--resume NAME`
and `/load NAME` read nothing again. Cache files are bounded (`session_budget` in the
configuration); those of the conversations that changed longest ago go first. What stands in the
input when the terminal or the program is lost is offered once to the next program in the same
folder. `--no-save` keeps nothing. Nothing is sent anywhere, and nothing is fetched.

Files and folders that the program makes are readable by their owner only; what was there before
keeps its mode, so a home folder that a group shares stays shared. The newest conversation is the
one whose own last record is newest, whatever a copy or a backup made of the files' times.

A conversation whose file is removed while it is open is written there again, and one whose file
another program changed goes on in a file of its own. Where nothing can be written, or there is no
home folder, the program goes on in memory. A file system that has no locks or modes, cannot sync,
rename over a file or link is used without; each of these is said once. A damaged history or
conversation file is set aside beside the new one as `NAME.damaged`, with all that can be read kept.
"""

_ONCE = """\
## In pipes and scripts

    git diff | dsv4-chat -p "review this"
    dsv4-chat -p "what does this do?" @src/main.c --json

The answer goes to stdout, everything else to stderr. Piped text and files come before the question,
and what many questions begin with is kept as a cache file: a second question about the same text
reads only the rest (`cached_tokens` of the `done` event tells). `--json` gives one event per line:
`progress`, `reasoning_delta`, `text_delta`, `tool_call`, `tool_result`, `budget_reached`,
`loop_noticed`, `done`, and `error` when something failed. The `finish_reason` of `done` is `stop`
(the model's own end), `length`, `cancelled`, `tool_calls`, `stop_text` (`stop_text` says which) or
`loop`. Where tokens are guessed ahead (`--draft`, see [speculation.md](speculation.md)), its
`draft` has `passes`, `drafted`, `accepted` and `saved_s`, and `completion_tokens` is `passes +
accepted`; its `exact_rows`, where the load looked, is how many rows one pass may have on this GPU.
Where memory was short for the model's drafts, `drafts_not_loaded` is the sentence that says so. On
two machines `pipeline` has `ranks` and, of rank 0 and rank 1, `layers` `[from, to)` and
`bytes_loaded`. Where experts are read from the disk (`--expert-memory`), `experts` has `slots`,
those of each layer that memory holds, and of prompt and reply `hits`, `misses` and `bytes_read`;
`progress` has `layers`, those that the prompt has passed and all of them, as it passes a layer at a
time.

With `--tools`, or `tools = true` in the configuration, the model uses its tools here as at the
prompt, and goes on until it calls none. Nobody is there to be asked: what needs no permission is
done, as reading files in the working folder, calculating and the tools of MCP servers with `trust`,
and the rest, as writing and commands, is refused as by a person, which a line on stderr says.
`--json` tells a `tool_result` (`name`, `result`) after each call, and a `done` after each answer;
the one without `tool_calls` as its `finish_reason` is the last. Calls of 100 answers to one message
are run. Then the model is told to answer, and if it calls again the program ends with an error.

`--expert-memory 20GB` keeps so much of a model's routed experts in memory and reads the others from
the disk when a token chooses them; `auto` does that for a model that does not fit, with as much as
there is room for, where that is 16 of each layer's experts at least. What does not fit is refused
with figures. Answers are the same; drafts are off. The status line and `/context` tell how many
experts were found in memory and how long the reply waited. `--expert-trace FILE` writes a line of
CSV for each token and layer; `python -m benchmarks.expert_cache FILE` says what other sizes would
find.

`--server URL` takes the model of a running `dsv4-chat serve` and loads none; all of this program
works with it but what only a model of one's own can do, see [server.md](server.md). `doctor` then
looks at the server: its model, and how it is.

`--no-stream` writes an answer when it is complete, and nothing of one that fails. `--raw` changes
nothing of it on the way into a pipe or a file and adds no line end; on a terminal, control
characters are made harmless all the same. A single message is kept nowhere, except with
`--continue` or `--resume NAME`: then it goes on with that conversation.

Text on stdin is UTF-8; a byte order mark and CRLF are taken as in attached files and in what an
editor saves. A stdout that is full or closed ends any run with one sentence on stderr and status 1;
a reader that leaves early, as `head` does, ends it with status 1 and no sentence. An answer is
whole though stderr cannot be written.

`~` and `~user` are home folders in every path: of options, of the configuration, of commands and
after an @. Paths may hold any bytes.
"""


_SAMPLING = """\
## How answers are drawn

The settings have transformers' names and meanings; `auto` is what the checkpoint's
`generation_config.json` says, else temperature 1 and no filter. What acts on the next token, in
this order:

1. `repetition_penalty`: a score above 0 is divided by it and one below multiplied, once for every
   token that the model has read or said in this conversation, instructions, questions and files
   among them. 1 changes nothing, and little above it, such as 1.05, is much. What `/undo` takes
   back does not count.
2. `top_p` leaves the fewest of the likeliest tokens whose shares reach it.
3. `min_p` leaves those at least so likely, the likeliest being 1.
4. `top_k` leaves the so many likeliest; 0 is all. Equals of the last one that stays, stay too.
5. `temperature` flattens or sharpens what is left; at 0 the likeliest token is taken.

The likeliest token always stays. The order of the filters is mlx-lm's, and each share is of the
whole distribution. With `--seed` an answer repeats. A reasoning budget of 0 is no reasoning, as
with `--think none`.
"""


def page() -> str:
    """The whole page."""
    sections = [_HEAD, _keys(), _commands(), _KEPT, _ONCE, _SAMPLING, _options(), _settings()]
    return "\n".join(sections)


def _keys() -> str:
    rows = [f"| {keys} | {meaning} |" for keys, meaning in KEYS]
    return "\n".join(["## Keys", "", "| key | what it does |", "|---|---|", *rows, ""])


def _commands() -> str:
    lines = ["## Commands", ""]
    for group, commands in GROUPS.items():
        lines += [f"| {group} | |", "|---|---|"]
        lines += [
            f"| `{command.usage.replace('|', chr(92) + '|')}` | {command.summary} |"
            for command in commands
        ]
        lines.append("")
    return "\n".join(lines)


def _options() -> str:
    environment = Environment(io.StringIO(), io.StringIO(), io.StringIO(), {})
    return f"## Options\n\n```\n{help_text(environment).rstrip()}\n```\n"


def _settings() -> str:
    return (
        "## Configuration\n\n`dsv4-chat config` prints this file, `dsv4-chat config --path` where "
        "it belongs. The command line wins over it.\n\n"
        f"```toml\n{config.commented().rstrip()}\n```\n"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
