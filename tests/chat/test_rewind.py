"""Going back in a conversation: what is kept is not read again, and answers are what they were."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.chat.conversation import Conversation
from dsv4_mlx.chat.events import Progress
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.errors import CacheError, UsageError
from tests.chat.talking import (
    CHAT,
    THINKING,
    answer,
    change,
    conversation_with,
    outcome,
    read_by,
    talk,
)
from tests.cli.scripted import scripted_engine

REPLIES = ("Well.</think>One.", "Hm.</think>Two.", "So.</think>Three.", "Oh.</think>Four.")
BOTH = pytest.mark.parametrize("thinking", [CHAT, THINKING], ids=["chat", "thinking"])


def three_turns(tokenizer: Tokenizer, thinking: Thinking, **options) -> Conversation:
    replies = [r.split("</think>")[1] for r in REPLIES] if thinking is CHAT else REPLIES
    conversation = talk(tokenizer, *replies, thinking=thinking, system="Be brief.", **options)
    for text in ("first question", "and the second?", "the third one"):
        answer(conversation, text)
    return conversation


def length_before(conversation: Conversation, number: int) -> int:
    """Prompt tokens before user turn `number`, as a later prompt has them."""
    turns = [*conversation.turns[: number - 1], Turn.asking("")]
    writer = conversation._model_side._writer.fork()
    return writer.write(turns, conversation.settings).boundaries[-1]


@BOTH
@pytest.mark.parametrize("times", [1, 2, 3])
def test_after_undo_only_the_new_message_is_read(
    tokenizer: Tokenizer, thinking: Thinking, times: int
) -> None:
    conversation = three_turns(tokenizer, thinking)
    asked = [conversation.undo() for _ in range(times)]
    assert asked == ["the third one", "and the second?", "first question"][:times]
    kept = length_before(conversation, 4 - times)
    read, done = read_by(conversation, conversation.send("something else"))
    assert done.usage.cached_tokens == kept
    assert read == done.usage.prompt_tokens - kept
    assert [turn.text for turn in conversation.turns[3 - times :]] == ["something else"]


@BOTH
def test_undo_itself_reads_nothing_and_shortens_the_context(
    tokenizer: Tokenizer, thinking: Thinking
) -> None:
    conversation = three_turns(tokenizer, thinking)
    calls = conversation._model_side._engine.model.calls
    before, used = len(calls), conversation.context().used
    conversation.undo()
    assert len(calls) == before
    assert conversation.context().used == length_before(conversation, 3) < used


@BOTH
def test_retry_reads_nothing(tokenizer: Tokenizer, thinking: Thinking) -> None:
    conversation = three_turns(tokenizer, thinking)
    turns = conversation.turns
    read, done = read_by(conversation, conversation.retry())
    assert (read, done.usage.cached_tokens) == (0, done.usage.prompt_tokens)
    assert conversation.turns == turns


@BOTH
def test_retry_after_undo_reads_one_token(tokenizer: Tokenizer, thinking: Thinking) -> None:
    conversation = three_turns(tokenizer, thinking)
    conversation.undo()
    turns = conversation.turns
    read, _ = read_by(conversation, conversation.retry())
    assert read == 1
    assert conversation.turns == turns


@BOTH
@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_edit_reads_only_the_new_question(
    tokenizer: Tokenizer, thinking: Thinking, number: int
) -> None:
    conversation = three_turns(tokenizer, thinking)
    kept = length_before(conversation, number)
    read, done = read_by(conversation, conversation.edit(number, "asked anew"))
    assert done.usage.cached_tokens == kept
    assert read == done.usage.prompt_tokens - kept
    assert [turn.text for turn in conversation.turns] == [
        *["first question", "and the second?"][: number - 1],
        "asked anew",
    ]


@BOTH
def test_a_fork_reads_nothing_of_what_is_common(tokenizer: Tokenizer, thinking: Thinking) -> None:
    conversation = three_turns(tokenizer, thinking)
    turns = conversation.turns
    twin = conversation.fork()
    kept = conversation.undo() and length_before(conversation, 3)
    assert twin.undo() == "the third one"
    for branch in (conversation, twin):
        read, done = read_by(branch, branch.send(f"branch {id(branch)}"))
        assert done.usage.cached_tokens == kept
        assert read == done.usage.prompt_tokens - kept
    assert conversation.turns[:2] == twin.turns[:2] == turns[:2]
    assert conversation.turns[2].text != twin.turns[2].text


@BOTH
def test_a_loaded_cache_knows_the_turns_at_once(
    tokenizer: Tokenizer, thinking: Thinking, tmp_path: Path
) -> None:
    path = tmp_path / "cache"
    before = three_turns(tokenizer, thinking)
    before.save_cache(path)
    _, expected = read_by(before, before.send("on"))
    for back in (0, 1, 2):
        after = talk(tokenizer, *REPLIES, thinking=thinking, system="Be brief.")
        after.turns = before.turns[:3]
        after.load_cache(path)
        for _ in range(back):
            after.undo()
        kept = length_before(after, 4 - back) if back else expected.usage.cached_tokens
        read, done = read_by(after, after.send("on"))
        assert done.usage.cached_tokens == kept
        assert read == done.usage.prompt_tokens - kept


def test_a_cache_that_does_not_fit_changes_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    conversation = three_turns(tokenizer, CHAT)
    (tmp_path / "cache").write_text("[", encoding="utf-8")
    with pytest.raises(CacheError):
        conversation.load_cache(tmp_path / "cache")
    read, _ = read_by(conversation, conversation.retry())
    assert read == 0


def test_there_is_nothing_to_save_before_the_first_turn(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(CacheError, match="nothing to save"):
        talk(tokenizer, "One.").save_cache(tmp_path / "cache")


def test_turns_beyond_the_snapshot_budget_are_read_again(tokenizer: Tokenizer) -> None:
    conversation = three_turns(tokenizer, CHAT, snapshot_bytes=2000)
    kept = length_before(conversation, 2)
    events = list(conversation.edit(2, "asked anew"))
    progress = [event for event in events if isinstance(event, Progress)]
    assert events[-1].usage.cached_tokens < kept
    assert progress[-1].done == progress[-1].total > 0
    assert [turn.text for turn in conversation.turns] == ["first question", "asked anew"]
    assert conversation.messages[-1]["content"] == "Two."


def test_many_short_turns_are_read_in_whole_chunks(tokenizer: Tokenizer) -> None:
    """A place for each of them lies inside of a call, and they are not many."""
    turns = [
        Turn.asking(f"question {n}").answered({"role": "assistant", "content": "Yes."}, (), ())
        for n in range(100)
    ]
    conversation = talk(tokenizer, *["One."] * 102, turns=turns)
    chunk = conversation._model_side._engine.prefill_chunk
    calls = conversation._model_side._engine.model.calls
    _, done = answer(conversation, "and now?")
    long = [count for count in calls if count > 1]
    assert sum(long) > 2 * chunk
    assert len(long) <= done.usage.prompt_tokens // chunk + 2
    assert len(list(conversation._model_side._session.places)) <= len(long) + 2
    conversation.undo()
    conversation.undo()
    read, _ = read_by(conversation, conversation.send("else"))
    assert read <= chunk + 20


@pytest.mark.parametrize(
    "back", [lambda c: c.retry(), lambda c: c.edit(1, "x"), lambda c: c.undo()]
)
def test_there_is_no_way_back_from_an_empty_conversation(tokenizer: Tokenizer, back) -> None:
    with pytest.raises(UsageError, match="no turn yet"):
        back(talk(tokenizer, "One."))


@pytest.mark.parametrize("number", [0, 4, -1])
def test_only_turns_that_exist_can_be_edited(tokenizer: Tokenizer, number: int) -> None:
    with pytest.raises(UsageError, match=f"no turn {number}; the conversation has 3"):
        three_turns(tokenizer, CHAT).edit(number, "x")


@BOTH
@pytest.mark.parametrize(
    ("ask", "place"),
    [
        (lambda c: c.send("more"), lambda c: length_before(c, 4) + 1),
        (lambda c: c.retry(), lambda c: c.context().used - 2),
        (lambda c: c.edit(2, "x"), lambda c: length_before(c, 2) + 1),
    ],
    ids=["send", "retry", "edit"],
)
def test_an_error_leaves_the_turns_as_they_were(
    tokenizer: Tokenizer, thinking: Thinking, ask, place
) -> None:
    conversation = three_turns(tokenizer, thinking)
    turns = conversation.turns
    conversation._model_side._engine.model.fail_at = place(conversation)
    with pytest.raises(RuntimeError):
        list(ask(conversation))
    assert conversation.turns == turns
    list(conversation.retry())
    assert conversation.turns == turns


def test_a_cancelled_retry_keeps_its_part(tokenizer: Tokenizer) -> None:
    conversation = talk(tokenizer, "One.", "again and …", max_tokens=500)
    answer(conversation, "a")
    answer(conversation, "b")
    for number, _ in enumerate(conversation.retry()):
        if number == 5:
            conversation.cancel()
    assert len(conversation.turns) == 2
    assert 0 < len(conversation.messages[-1]["content"]) < 100
    read, _ = read_by(conversation, conversation.send("c"))
    assert read < 12


def test_retry_has_other_luck_and_the_same_luck_when_repeated(tokenizer: Tokenizer) -> None:
    def answers(seed: int) -> list[str]:
        conversation = random_talk(tokenizer, Sampling(1.0, 1.0, seed))
        list(conversation.send("x"))
        said = [conversation.messages[-1]["content"]]
        for _ in range(2):
            list(conversation.retry())
            said.append(conversation.messages[-1]["content"])
        return said

    assert len(set(answers(7))) == 3
    assert answers(7) == answers(7)


def random_talk(tokenizer: Tokenizer, sampling: Sampling, **options) -> Conversation:
    """Answers depend on every token before them, and are nonsense."""
    engine = scripted_engine(tokenizer, ["x"])
    engine.model.next_token = None
    engine.prefill_chunk = 16
    options = {"thinking": CHAT, "max_tokens": 8} | options
    return conversation_with(engine, tokenizer, sampling=sampling, **options)


TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.text("ab \n", max_size=30)),
        st.tuples(st.just("edit"), st.integers(0, 5)),
        st.tuples(
            st.sampled_from(["undo", "retry", "fork", "reload", "chat", "thinking", "tools"]),
            st.none(),
        ),
    ),
    min_size=3,
    max_size=10,
)


@settings(max_examples=40)
@given(MOVES)
def test_any_way_to_a_question_gives_its_answer(tokenizer: Tokenizer, tmp_path_factory, moves):
    """As a new conversation with the same turns answers, which reads all of them."""
    path = tmp_path_factory.mktemp("moves") / "cache"
    settings = {"thinking": CHAT, "tools": ()}
    conversation = random_talk(tokenizer, Sampling(0.0))
    for move, argument in moves:
        if move in ("undo", "retry", "edit", "reload") and not conversation.turns:
            continue
        before, asked = conversation.turns, None
        match move:
            case "send":
                asked = argument
                said, _ = answer(conversation, asked)
            case "edit":
                number = argument % len(before) + 1
                before, asked = before[: number - 1], "changed"
                said, _ = outcome(conversation.edit(number, asked))
            case "retry":
                before, asked = before[:-1], before[-1].text
                said, _ = outcome(conversation.retry())
            case "undo":
                conversation.undo()
            case "fork":
                conversation = conversation.fork()
            case "reload":
                conversation.save_cache(path)
                conversation = random_talk(tokenizer, Sampling(0.0), turns=before, **settings)
                conversation.load_cache(path)
            case "tools":
                settings["tools"] = () if settings["tools"] else (TOOL,)
                change(conversation, **settings)
            case mode:
                settings["thinking"] = CHAT if mode == "chat" else THINKING
                change(conversation, **settings)
        if asked is not None:
            fresh = random_talk(tokenizer, Sampling(0.0), turns=before, **settings)
            assert answer(fresh, asked)[0] == said
            assert fresh.turns == conversation.turns
