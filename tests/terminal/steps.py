"""What a person does at the prompt of the program, and waits for."""

from tests.terminal.driver import Terminal


def send(terminal: Terminal, text: str, *answer: str) -> None:
    """Send and wait until `answer` is there below it and the prompt waits again."""
    terminal.type(f"{text}\r")
    terminal.wait_for(f"> {text}")

    def is_answered() -> bool:
        # The first such line, since what cannot be sent stands in the input again; none when the
        # answer has moved it off the screen.
        _, line, below = terminal.text.partition(f"> {text}")
        return all(part in (below if line else terminal.text) for part in answer)

    terminal.wait_until(is_answered, " and ".join(answer))
    idle(terminal)


def idle(terminal: Terminal) -> None:
    def waits() -> bool:
        rows = terminal.text.splitlines()
        return terminal.line.startswith(">") and rows[-2].startswith("think ")

    terminal.wait_until(waits, "waiting prompt")


def leave(terminal: Terminal) -> None:
    terminal.type("\x04")
    assert terminal.wait_for_end() == 0
