"""The folder that a conversion writes to: whether it may begin there, and holding it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from convert.journal import JOURNAL_FILE
from convert.plan import ConversionPlan
from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.files.documents import DocumentError, content_of, parse_object
from dsv4_mlx.files.file_systems import FileSystem
from dsv4_mlx.files.system_files import without_system_files
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE


def require_empty(destination: Path) -> None:
    """UsageError unless a new conversion may begin there: what systems leave there is nothing."""
    if not destination.is_dir() or not without_system_files(destination.iterdir()):
        return
    if (destination / CONVERSION_FILE).exists():
        raise UsageError(f"{destination} is not empty; delete it or give another folder.")
    if (destination / JOURNAL_FILE).exists():
        raise UsageError(
            f"{destination} is not empty and no finished conversion: {JOURNAL_FILE} says how far "
            "it came; continue with --resume or delete the folder."
        )
    raise UsageError(
        f"{destination} is not empty and no finished conversion; delete it or give another folder."
    )


def require_folder(destination: Path) -> None:
    """UsageError where no folder can be made."""
    if destination.is_symlink() and not destination.exists():
        raise UsageError(
            f"{destination} is a link to {os.readlink(destination)}, which is not there; make that "
            "folder or give another."
        )
    if destination.exists() and not destination.is_dir():
        raise UsageError(f"{destination} is a file; give a folder that does not exist yet.")


def require_same(plan: ConversionPlan, destination: Path) -> None:
    """UsageError unless the finished conversion there is the one that is asked for."""
    try:
        made = parse_object(content_of(destination / CONVERSION_FILE))
    except (OSError, DocumentError) as error:
        raise CheckpointError(
            f"{destination / CONVERSION_FILE} cannot be read; delete the folder and convert again."
        ) from error
    name = made.get("recipe")
    if isinstance(name, str):  # a file of rules may have another name now
        plan = replace(plan, recipe=replace(plan.recipe, name=name))
    if plan.as_begun(made.get("plan")) is None:
        raise UsageError(
            f"{destination} holds a finished conversion of another source, recipe, importance "
            "file, choice of drafts or layers; give another folder."
        )


@contextmanager
def only_converter(folder: Path, files: FileSystem) -> Iterator[None]:
    """Hold the folder, where it can be held; UsageError when another process does. A kill releases
    it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            files.lock(descriptor, folder)
        except BlockingIOError as error:
            raise UsageError(
                f"Another converter is writing to {folder}; wait for it or stop it."
            ) from error
        yield
    finally:
        os.close(descriptor)
