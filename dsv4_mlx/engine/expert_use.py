"""What replies find of a model's experts where these lie in files."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ExpertUse:
    """Experts that were wanted, each once in a call of a layer."""

    slots: int
    """Experts of each layer that are in memory at a time."""
    hits: int = 0
    """Of those wanted, found in memory."""
    misses: int = 0
    """Read from files."""
    bytes_read: int = 0
    waited_s: float = 0.0
    """Seconds that layers waited for files."""

    @property
    def hit_rate(self) -> float | None:
        """From 0 to 1; None while nothing was wanted."""
        wanted = self.hits + self.misses
        return self.hits / wanted if wanted else None

    def since(self, before: "ExpertUse | None") -> "ExpertUse":
        """What came on top of `before`."""
        if before is None:
            return self
        return ExpertUse(
            self.slots,
            self.hits - before.hits,
            self.misses - before.misses,
            self.bytes_read - before.bytes_read,
            self.waited_s - before.waited_s,
        )

    def and_then(self, after: "ExpertUse") -> "ExpertUse":
        """Both together."""
        return ExpertUse(
            after.slots,
            self.hits + after.hits,
            self.misses + after.misses,
            self.bytes_read + after.bytes_read,
            self.waited_s + after.waited_s,
        )

    def as_record(self) -> dict[str, int]:
        """As JSON data."""
        return {
            "slots": self.slots,
            "hits": self.hits,
            "misses": self.misses,
            "bytes_read": self.bytes_read,
        }


def expert_use(facts: Mapping[str, float]) -> ExpertUse | None:
    """What a model counted since it was loaded; None where all experts are in memory."""
    if not facts:
        return None
    whole = {name: int(facts[name]) for name in ("slots", "hits", "misses", "bytes_read")}
    return ExpertUse(**whole, waited_s=facts["waited_s"])
