"""What one number of a config may be: whole or real, and within what any release could have."""

from dsv4_mlx.errors import ConfigError
from dsv4_mlx.files.documents import as_double, shown

# Far beyond every release; what is larger would take memory or time before any file contradicts it.
_MOST = {
    "hc_mult": 64,
    "hc_sinkhorn_iters": 1_000,
    "max_position_embeddings": 1 << 40,
    "n_routed_experts": 1 << 14,
    "num_hidden_layers": 1 << 10,
    "num_nextn_predict_layers": 64,
    "sliding_window": 1 << 16,
}
_MOST_OF_OTHERS = 1 << 24


def require_int(name: str, value: object, *, minimum: int) -> None:
    """ConfigError unless `value` is a whole number, at least `minimum` and not absurd."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} is {shown(value)}; expected a whole number.")
    if value < minimum:
        raise ConfigError(f"{name} is {shown(value)}; expected {minimum} or more.")
    most = _MOST.get(name, _MOST_OF_OTHERS)
    if value > most:
        raise ConfigError(f"{name} is {shown(value)}; expected {most} or less.")


def require_float(name: str, value: object) -> None:
    """ConfigError unless `value` is a number that a double holds, above zero."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name} is {shown(value)}; expected a number.")
    if not ((number := as_double(value)) and number > 0):
        raise ConfigError(f"{name} is {shown(value)}; expected a finite number above zero.")
