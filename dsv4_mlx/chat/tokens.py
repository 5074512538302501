"""The control tokens of DeepSeek-V4, as text. The bars are U+FF5C and the underscores U+2581.

Ids are never written here: they are looked up in the checkpoint's own tokenizer.json.
"""

from typing import Final

BOS: Final = "<｜begin▁of▁sentence｜>"
EOS: Final = "<｜end▁of▁sentence｜>"
PAD: Final = "<｜▁pad▁｜>"
USER: Final = "<｜User｜>"
ASSISTANT: Final = "<｜Assistant｜>"
THINK: Final = "<think>"
END_THINK: Final = "</think>"
DSML: Final = "｜DSML｜"  # comes without angle brackets: "<", DSML and "invoke" are three pieces
LATEST_REMINDER: Final = "<｜latest_reminder｜>"

TASKS: Final[dict[str, str]] = {
    task: f"<｜{task}｜>"
    for task in ("action", "query", "authority", "domain", "title", "extracted_url", "read_url")
}

REQUIRED: Final = (BOS, EOS, USER, ASSISTANT, THINK, END_THINK)
"""What a tokenizer must have; every other token is written as ordinary text where it is absent."""

V4_TOKENS: Final = (
    BOS,
    EOS,
    PAD,
    "<｜fim▁hole｜>",
    "<｜fim▁begin｜>",
    "<｜fim▁end｜>",
    USER,
    ASSISTANT,
    "<|EOT|>",
    THINK,
    END_THINK,
    DSML,
    LATEST_REMINDER,
    *TASKS.values(),
)
"""Every named control token of the release, in the order of their official ids."""
