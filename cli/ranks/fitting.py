"""Which options fit a run, by the number of machines that it has; none is dropped in silence."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cli.options import Options
from dsv4_mlx.errors import UsageError

if TYPE_CHECKING:
    from cli.config import Config


def require_fitting(
    options: Options, *, is_started: bool = False, port_option: str = "--port"
) -> None:
    """UsageError for an option that this run cannot follow; `is_started`: somebody else started
    this process as one of two ranks. `options` are those of the command line alone, whose `port` is
    called `port_option`."""
    if options.hosts is None and not is_started:
        for name in _given(_of_two_machines(options, port_option)):
            raise UsageError(f"{name} is for two Macs, see --hosts; leave it out.")
        return
    if options.subcommand == "doctor":
        if options.hosts is not None:
            raise UsageError("doctor looks at one Mac; leave --hosts out and run it on each.")
        return
    for name in _given(_of_one_machine(options)):
        raise UsageError(f"{name} is for one machine, and two share this model; leave it out.")
    if is_started and options.port is not None:
        raise UsageError("--port is for --hosts; ranks that are started as such have a hostfile.")


def configured_notes(config: "Config") -> list[str]:
    """What is said of settings of the configuration file that two machines do not follow."""
    named = {
        "expert_memory": config.expert_memory is not None,
        "draft": config.draft not in ("auto", "off"),
        "draft_max": config.draft_max is not None,
    }
    names = _given(named)
    if not names:
        return []
    return [f"{', '.join(names)} of the configuration file: for one machine alone, passed over"]


def _of_one_machine(options: Options) -> Mapping[str, bool]:
    """What a model whose layers lie on two machines cannot do, and whether it is asked for."""
    return {
        "--expert-memory": isinstance(options.expert_memory, int),
        "--expert-trace": options.expert_trace is not None,
        f"--draft {options.draft}": options.draft not in (None, "auto", "off"),
        "--draft-max": options.draft_max is not None,
        "--server": options.server is not None,
    }


def _of_two_machines(options: Options, port_option: str) -> Mapping[str, bool]:
    """What has no meaning for one machine."""
    return {
        port_option: options.port is not None,
        "--peer-timeout": options.peer_timeout is not None,
        "--allow-sleep": options.allow_sleep,
    }


def _given(asked: Mapping[str, bool]) -> list[str]:
    return [name for name, is_given in asked.items() if is_given]
