"""The lines of the configuration file, in the order in which they are printed."""

from cli.config_values import (
    ON,
    Setting,
    folder,
    none_for,
    one_of,
    size,
    stop_texts,
    switch,
    text,
    whole,
    within,
)
from cli.model_options import BACKENDS, KV_CHOICES, LEVELS
from dsv4_mlx.chat.loops import LOOPS
from dsv4_mlx.engine.draft_choice import DRAFT_CHOICES
from dsv4_mlx.engine.draft_history import MOST_DRAFTS
from dsv4_mlx.engine.sampling import RANGES


def _sampled(name: str, help_: str) -> Setting:
    expected = f"auto or {RANGES[name]}"
    return Setting(name, '"auto"', help_, expected, none_for("auto", within(RANGES[name])))


_A_SIZE = 'a size like "20 GB" or "512 MiB"'

SETTINGS = (
    Setting("model", '""', "Checkpoint folder; empty is the small model that comes with the"
            " program.", "a folder's path", folder),
    Setting("theme", '"auto"', "Colours: auto, dark, light or plain.",
            "auto, dark, light or plain", one_of("auto", "dark", "light", "plain")),
    Setting("reasoning", '"fold"', "Reasoning in the conversation: show, fold (to one line when it"
            " ends) or hide.", "show, fold or hide", one_of("show", "fold", "hide")),
    Setting("thinking", '"auto"', f"Thinking level: {', '.join(LEVELS)}, as far as the checkpoint"
            " has it; auto is its default.", f"auto, {', '.join(LEVELS)}",
            none_for("auto", one_of(*LEVELS))),
    _sampled("temperature", "Sampling temperature, 0 is greedy; auto is what the checkpoint says."),
    _sampled("top_p", "Share of the likeliest tokens to draw from; auto is what the checkpoint"
             " says."),
    _sampled("min_p", "How likely a token must be to be drawn, the likeliest being 1."),
    _sampled("top_k", "How many of the likeliest tokens to draw from; 0 is all of them."),
    _sampled("repetition_penalty", "Above 1, what was said already, the prompt's words too, becomes"
             " less likely."),
    Setting("max_tokens", '"unlimited"', "Longest reply in tokens, reasoning included.",
            "unlimited or a whole number from 1 on", none_for("unlimited", whole(1))),
    Setting("budget", '"unlimited"', "Most tokens of reasoning before an answer.",
            "unlimited or a whole number from 0 on", none_for("unlimited", whole(0))),
    Setting("stop", "[]", "Texts that end an answer where they would come, such as [\"\\nUser:\"].",
            "a list of texts that are not empty", stop_texts),
    Setting("loop", '"notice"', "What happens when reasoning or an answer says the same without"
            " end: notice, stop or off.", ", ".join(LOOPS), one_of(*LOOPS)),
    Setting("system", '""', "System message of new conversations; empty is none.", "a text",
            none_for("", text)),
    Setting("kv", '"compact"', "How the cache keeps entries: compact or bf16; both hold the same"
            " values.", "compact or bf16", one_of(*KV_CHOICES)),
    Setting("prefill_chunk", '"auto"', "Tokens of a prompt that are read at a time; auto is 2048"
            " where memory allows it, else 512.", "auto or a whole number from 1 on",
            none_for("auto", whole(1))),
    Setting("compile", "true", "Whether a GPU replays one graph for the tokens of a reply; false"
            " builds each token's anew.", ON, switch),
    Setting("draft", '"auto"', "What guesses tokens ahead: auto, off, mtp, dspark or lookup; the"
            " reply is the same.", ", ".join(DRAFT_CHOICES), one_of(*DRAFT_CHOICES)),
    Setting("draft_max", '"auto"', "Tokens guessed at a time; auto is 5, of lookup 7.",
            f"auto or a whole number from 1 to {MOST_DRAFTS}",
            none_for("auto", whole(1, MOST_DRAFTS))),
    Setting("expert_memory", '"auto"', "Memory for experts, the others being read from the disk;"
            " auto does that for models that do not fit.", f"auto or {_A_SIZE}",
            none_for("auto", size)),
    Setting("backend", '"auto"', f"Where the model runs: {', '.join(BACKENDS)}.",
            ", ".join(BACKENDS), one_of(*BACKENDS)),
    Setting("tools", "false", "Whether the model may use tools when a conversation begins.", ON,
            switch),
    Setting("status_line", "true", "Whether the line above the input tells how things stand.", ON,
            switch),
    Setting("auto_compact", "false", "Whether /compact runs by itself when the context is nearly"
            " full.", ON, switch),
    Setting("plain", "false", "Plain lines instead of a redrawn screen, for screen readers.", ON,
            switch),
    Setting("session_budget", '"20 GB"', "Disk for the caches of kept conversations; the least"
            " recently used go first.", _A_SIZE, size, "session_kv_bytes"),
    Setting("snapshot_budget", '"1 GiB"', "Memory for the places that undo, retry and edit return"
            " to.", _A_SIZE, size, "snapshot_bytes"),
    Setting("prefix_budget", '"10 GB"', "Disk for the caches of beginnings that one-shot messages"
            " share.", _A_SIZE, size, "prefix_bytes"),
)  # fmt: skip
