"""Other frames for a question: "How do I leave" is asked as "What is the way to leave" too."""

from __future__ import annotations

import random
import re

from dsv4_mlx.training.data.wordings import wording

# "{}" is what the group of the pattern matched.
_FRAMES = (
    (r"How (?:do|can) I (.+)", (
        "How could I {}", "How would I {}", "How should I {}", "What is the way to {}",
        "I want to {}", "I would like to {}", "I need to {}", "Show me how to {}",
        "Tell me how to {}", "Can you tell me how to {}", "Please explain how to {}",
        "Is there a way to {}", "Is it possible to {}", "What must I do to {}",
        "What do I have to type to {}", "What should I type to {}", "How to {}",
        "How does one {}", "How do people {}", "What do I use to {}", "What is needed to {}",
        "With what do I {}", "I have to {}", "Can I {}", "Could I {}", "Help me to {}",
        "I do not know how to {}", "What would I do to {}", "How exactly do I {}",
    )),
    (r"What does (.+) do", (
        "What is {} for", "What is the effect of {}", "Tell me what {} does", "Explain {}",
        "What is {} good for", "What happens with {}", "Why would I use {}", "What about {}",
        "Describe {}", "What is the meaning of {}", "What is the use of {}", "{}",
    )),
    (r"What is (.+)", (
        "What exactly is {}", "What's {}", "Tell me what {} is", "Can you tell me what {} is",
        "I do not know what {} is", "I want to know what {} is", "Do you know what {} is",
        "What do you mean by {}", "Could you tell me what {} is", "And what is {}",
        "What would {} be", "I would like to know what {} is", "Please say what {} is",
    )),
    (r"What are (.+)", (
        "What exactly are {}", "Tell me what {} are", "Can you tell me what {} are",
        "I do not know what {} are", "Please say what {} are", "And what are {}",
    )),
    (r"(?:Explain|Describe) (.+?)(?: to me| shortly)?", (
        "Could you explain {}", "Can you explain {}", "Please explain {}", "Please describe {}",
        "Can you describe {}", "I want to understand {}", "Help me understand {}",
        "Say something about {}", "I do not understand {}", "Give me a description of {}",
        "Teach me about {}", "What can you tell me about {}", "Would you explain {}",
    )),
    (r"(?:May|Can) I (.+)", (
        "Am I allowed to {}", "Is it okay to {}", "Is it possible to {}", "Could I {}",
        "Is one allowed to {}", "I want to {}", "Am I able to {}", "Is it allowed to {}",
    )),
    (r"(?:Must|Should|Do) I (?:have to |need to )?(.+)", (
        "Is it necessary to {}", "Must one {}", "Am I forced to {}", "Do we have to {}",
        "Is there a need to {}", "Would I have to {}",
    )),
    (r"How (big|large|long|fast) (is|are) (.+)", (
        "Tell me how {0} {2} {1}", "Do you know how {0} {2} {1}", "I wonder how {0} {2} {1}",
        "How {0} exactly {1} {2}", "Can you tell me how {0} {2} {1}",
    )),
    (r"How (much|many) (.+)", (
        "Tell me how {} {}", "Do you know how {} {}", "About how {} {}", "And how {} {}",
        "Exactly how {} {}", "I wonder how {} {}",
    )),
    (r"Where (?:do|can) I (.+)", (
        "Tell me where to {}", "From where can I {}", "Do you know where I can {}",
        "Is there a place to {}", "In which place do I {}", "Where should I {}",
    )),
    (r"Where (is|are) (.+)", (
        "Tell me where {1} {0}", "Do you know where {1} {0}", "In what place {0} {1}",
        "Where exactly {0} {1}", "I am looking for {1}", "Where do I find {1}",
    )),
    (r"(?:Which|What) command (.+)", (
        "What is the command that {}", "Tell me the command that {}", "Name the command that {}",
        "Is there a command that {}", "Which instruction {}", "I need the command that {}",
        "What do I type that {}", "Do you know the command that {}", "Which program {}",
    )),
    (r"(?:Which|What) option (.+)", (
        "What is the option that {}", "Is there an option that {}", "Which flag {}",
        "Which switch {}", "Tell me the option that {}", "Which argument {}",
        "Do you know which option {}", "Which parameter {}",
    )),
    (r"(?:Which|What) (\w+s) (are there|can I use|exist)(.*)", (
        "List the {0}{2}", "Tell me the {0}{2}", "Name all {0}{2}", "Show me the {0}{2}",
        "I want to see the {0}{2}", "What {0} do I have{2}", "From which {0} can I choose{2}",
    )),
)  # fmt: skip


def reframed(text: str, rng: random.Random) -> str:
    """The question `text` in another frame where one fits, else `text` itself."""
    for pattern, frames in _FRAMES:
        match = re.fullmatch(pattern, text)
        if match:
            return rng.choice(frames).format(*match.groups())
    return text


# Held out are "Please ...", "Can you ..." and "I want you to ...".
_REQUESTS = (
    "{}", "{}", "{}", "{} please", "{} now", "{} for me", "{}, thank you", "{} if you can",
    "{} right away", "{} again", "Could you {}", "Would you {}", "Will you {}", "I need you to {}",
    "I would like you to {}", "I ask you to {}", "I wish that you {}", "It would help if you {}",
    "Kindly {}", "Just {}", "Now {}", "Next {}", "First {}", "Then {}", "Go and {}", "Try to {}",
    "May I ask you to {}", "Help me to {}", "Are you able to {}", "Is it possible to {}",
    "It is time to {}", "You should {}", "You may {}", "My task for you: {}", "What I need: {}",
    "Do this: {}", "Would you be so kind to {}", "Let us {}", "We have to {}", "I have to {}",
)  # fmt: skip


def worded(pattern: str, rng: random.Random) -> str:
    """A wording of a pattern; "!" before it says that it begins with a verb: it is then framed as
    all requests are."""
    text = wording(pattern.removeprefix("!"), rng)
    return requested(text, rng) if pattern.startswith("!") else text


def requested(text: str, rng: random.Random) -> str:
    """The request `text`, which begins with its verb, as people ask for things in lessons."""
    frame = rng.choice(_REQUESTS)
    return frame.format(text if frame.startswith("{}") else text[0].lower() + text[1:])
