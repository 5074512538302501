"""What can go wrong, as sentences for the person at the terminal.

Every message says what was expected, what was found and what to do. Commands print the message and
exit with status 1; only a programming mistake of ours ends in a traceback.
"""


class Dsv4Error(Exception):
    """Base of every error this project raises on purpose."""


class ConfigError(Dsv4Error):
    """The config describes a model that this program does not run."""


class CheckpointError(Dsv4Error):
    """A checkpoint folder is missing, damaged or of another kind."""


class CacheError(Dsv4Error):
    """A cache cannot do what was asked, or a cache file does not fit."""


class BackendError(Dsv4Error):
    """A backend was asked for that this machine does not have."""


class KernelError(Dsv4Error):
    """A GPU or its compiler refuses a kernel."""


class PromptError(Dsv4Error):
    """Messages or tokens that cannot be turned into a prompt, or a reply that cannot be parsed."""


class ContextError(PromptError):
    """A prompt that the model's context does not hold."""


class TrainingError(Dsv4Error):
    """A training run cannot go on."""


class UsageError(Dsv4Error):
    """Options that contradict each other or do not exist."""


class ServiceEnded(Dsv4Error):
    """A server's model works for nobody any longer."""


class PipelineError(Dsv4Error):
    """The other rank of a model on two machines is gone, silent or another one than expected."""
