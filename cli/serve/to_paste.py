"""Text that a person pastes: it goes to stdout, so that a file can take it, and what to do with it
to stderr."""

from dataclasses import dataclass

from cli.environment import Environment, ExitStatus


@dataclass(frozen=True)
class ToPaste:
    """A text, and what to do with it."""

    text: str
    """Whole as a file of its kind is: shell, TOML, JSON, a unit."""
    notes: tuple[str, ...]

    def print_to(self, environment: Environment) -> ExitStatus:
        """Write both, each where it belongs."""
        for note in self.notes:
            environment.stderr.write(f"{note}\n")
        environment.stderr.flush()
        environment.stdout.write(self.text)
        return ExitStatus.OK
