"""config.json of a folder, read; what is wrong in it is said with the file's name."""

from pathlib import Path

from dsv4_mlx.errors import CheckpointError, ConfigError
from dsv4_mlx.files.documents import read_object
from dsv4_mlx.files.paths import printable
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.spellings import config_of

CONFIG_FILE = "config.json"


def read_config(folder: Path) -> tuple[dict[str, object], DeepseekV4Config]:
    """The keys as written, and what they describe; CheckpointError or ConfigError."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{printable(str(folder))} is not a model folder: it has no {CONFIG_FILE}; give the "
            "folder that holds the downloaded or converted model."
        )
    keys = read_object(path)
    try:
        return keys, config_of(keys)
    except ConfigError as error:
        raise ConfigError(f"{printable(str(path))}: {error}") from error
