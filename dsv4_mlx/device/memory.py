"""Memory that a loaded model keeps: what macOS holds resident, and what MLX holds of freed arrays.

macOS lets go of what the GPU does not use at the moment, whole experts among it, and reads it back
from the disk or packs and unpacks it; others saw 0.7 tokens/s become 31 by MLX's wired limit alone
(docs/LOG.md). So whoever loads a model says first what it will need. All models of a process share
one limit; the last one that is let go restores what was there before.
"""

import logging
import platform
import weakref
from collections.abc import Callable
from threading import RLock

import mlx.core as mx

GIB = 1 << 30
CACHE_BYTES = 4 * GIB
"""What MLX may keep of freed arrays, which the next step takes again; its own limit on a GPU is the
whole memory, and on a CPU less than this."""
HEADROOM_BYTES = 2 * GIB
"""What stays wired above the arrays there are, for those that a step makes and lets go."""
GROWTH_BYTES = GIB
"""A limit that is raised goes so much further, so that it is raised seldom."""
FIRST_MACOS = 15


class HeldMemory:
    """What one model was given; `release` gives it back, and so does the end of the model."""

    def __init__(self, wanted: int = 0, problem: str = "") -> None:
        self.wanted = wanted
        """Bytes to keep resident; 0 where nothing is."""
        self.problem = problem
        """Why nothing is, as a sentence, where something should be."""

    @property
    def wired(self) -> int:
        """Bytes that stay resident at most, for all models of this process; 0 where none do."""
        return _process.limit if _process.wires_for(self) else 0

    def keep_up(self) -> None:
        """Raise the limit where arrays have outgrown it; cheap. For the model's thread."""
        if self.wanted:
            _process.keep_up(self)

    def release(self) -> None:
        """Give back what was held; idempotent."""
        _process.release(self)

    def end_with(self, model: object) -> None:
        """Release when `model` is gone."""
        weakref.finalize(model, self.release).atexit = False


def hold(backend: str, wanted: int, say: Callable[[str], None] | None = None) -> HeldMemory:
    """Keep `wanted` bytes resident for a model on `backend`, before its first array is made.

    At most the device's recommended working set, and on Metal alone. A failure is a sentence for
    `say`, by default of the log, and nothing worse. MLX's cache of freed arrays is bounded too.
    """
    held = HeldMemory()
    if backend == "metal" and mx.metal.is_available():
        held = HeldMemory(wanted)
        if problem := unwirable() or _process.hold(held):
            held = HeldMemory(problem=problem)
            (say or logging.getLogger("dsv4_mlx").warning)(problem)
    _process.begin(held)
    return held


def unwirable() -> str:
    """Why this system keeps no memory resident for a GPU, as a sentence; "" where it does."""
    release = platform.mac_ver()[0]
    if release and int(release.partition(".")[0]) < FIRST_MACOS:
        return (
            f"macOS {release} keeps no model resident in memory, which takes macOS {FIRST_MACOS}; "
            "a large model may be many times slower here, so update macOS."
        )
    return ""


def usable_memory() -> int | None:
    """Bytes that MLX's device may use; None where it does not tell."""
    told = mx.device_info()
    for name in ("max_recommended_working_set_size", "total_memory", "memory_size"):
        if isinstance(found := told.get(name), int):
            return found
    return None


class _Process:
    """The limits of this process, which MLX has once."""

    def __init__(self) -> None:
        self.limit = 0
        """Bytes wired at most."""
        self._wired: dict[HeldMemory, int] = {}
        self._models: list[HeldMemory] = []
        self._wired_before = 0
        self._cache_before: int | None = None
        self._lock = RLock()  # a model may be collected while another is loaded

    def wires_for(self, held: HeldMemory) -> bool:
        return held in self._wired

    def begin(self, held: HeldMemory) -> None:
        """A model more; the first one bounds the cache."""
        with self._lock:
            self._models.append(held)
            if self._cache_before is None:
                self._cache_before = mx.set_cache_limit(CACHE_BYTES)
                if self._cache_before < CACHE_BYTES:
                    mx.set_cache_limit(self._cache_before)

    def hold(self, held: HeldMemory) -> str:
        """Wire for a model more; why that failed, "" when it did not."""
        with self._lock:
            is_first = not self._wired
            self._wired[held] = held.wanted
            try:
                before = self._set()
                if is_first and before:  # somebody wired more or less for arrays of their own
                    self._wired_before = before
                    self._set()
            except Exception as error:  # whatever MLX says of a device
                del self._wired[held]
                reason = " ".join(str(error).split())
                return (
                    f"memory could not be wired ({reason}); a model that fills much of it may be "
                    "slow, and `dsv4-chat doctor` says what there is."
                )
            return ""

    def keep_up(self, held: HeldMemory) -> None:
        """Raise the limit where arrays have outgrown it."""
        with self._lock:
            needed = mx.get_active_memory() + HEADROOM_BYTES
            if held not in self._wired or needed <= self.limit or self.limit >= _recommended():
                return
            mx.synchronize()  # MLX wants no change while something runs
            self._wired[held] += needed + GROWTH_BYTES - self.limit
            self._set()

    def release(self, held: HeldMemory) -> None:
        """A model less; the last one restores what was there before."""
        with self._lock:
            if held not in self._models:
                return
            self._models.remove(held)
            if self._wired.pop(held, None) is not None:
                mx.synchronize()
                self._set()
            if not self._models:
                if self._cache_before is not None:
                    mx.set_cache_limit(self._cache_before)
                self._cache_before, self._wired_before = None, 0

    def _set(self) -> int:
        """Set what all models want beside what was wired before; the limit that held until now."""
        self.limit = min(sum(self._wired.values()) + self._wired_before, _recommended())
        before: int = mx.set_wired_limit(self.limit)
        return before


def _recommended() -> int:
    return int(mx.device_info()["max_recommended_working_set_size"])


_process = _Process()
