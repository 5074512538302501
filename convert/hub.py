"""The Hugging Face hub through its own client, file by file.

The client's `snapshot_download` throws half a file away when it is stopped (2.4 does; a shard of
V4-Flash has 3.5 GB). Its `http_get` continues one, so what has arrived is kept in a file of ours.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import BinaryIO, Protocol, TypeVar

from convert.disk import partial
from convert.progress import ProgressDisplay
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.file_systems import FileSystem

Answer = TypeVar("Answer")
_FILES_AT_A_TIME = 4


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: the SHA-256 of a large one, git's SHA-1 of a small one, if known."""

    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    def partial(self, path: Path) -> Path:
        """Where the first bytes of exactly this file wait for the others."""
        return partial(path, f".{(self.sha256 or self.git_sha1 or '')[:16]}")


class Hub(Protocol):
    """What is asked of the hub; tests answer themselves."""

    def files(self, repo: str) -> tuple[str, dict[str, HubFile]]:
        """The newest revision, and its files by name."""

    def download(
        self,
        repo: str,
        revision: str,
        files: dict[str, HubFile],
        folder: Path,
        progress: ProgressDisplay,
    ) -> None:
        """Those files into `folder`, continuing what is half there."""


@dataclass(frozen=True)
class HuggingFace:
    """The hub at `endpoint`, or where HF_ENDPOINT says."""

    endpoint: str | None = None

    def files(self, repo: str) -> tuple[str, dict[str, HubFile]]:
        from huggingface_hub import HfApi

        info = told(repo, lambda: HfApi(self.endpoint).model_info(repo, files_metadata=True))
        files = {
            one.rfilename: HubFile(
                one.size or 0, one.lfs.sha256 if one.lfs else None, None if one.lfs else one.blob_id
            )
            for one in info.siblings or ()
        }
        return str(info.sha), files

    def download(
        self,
        repo: str,
        revision: str,
        files: dict[str, HubFile],
        folder: Path,
        progress: ProgressDisplay,
    ) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        arrivals = _Arrivals(progress)
        pool = ThreadPoolExecutor(_FILES_AT_A_TIME)
        try:
            waiting = []
            for name, file in files.items():
                url = hf_hub_url(repo, name, revision=revision, endpoint=self.endpoint)
                waiting.append(pool.submit(_fetch_one, url, folder / name, file, arrivals))
            for future in waiting:
                told(repo, future.result)
        finally:
            arrivals.stopped.set()
            pool.shutdown(cancel_futures=True)


def _fetch_one(url: str, path: Path, file: HubFile, arrivals: "_Arrivals") -> None:
    """The rest of one file, then its name."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    path.parent.mkdir(parents=True, exist_ok=True)
    arrived = file.partial(path)
    with open(arrived, "ab") as kept:
        there = kept.tell()
        if there > file.size:
            kept.truncate(there := 0)
        arrivals.count(there)
        counted: BinaryIO = _Counted(kept, arrivals)  # type: ignore[assignment]
        # The client would rather not begin with nothing to do.
        if there < file.size or file.size == 0:
            http_get(
                url,
                counted,
                resume_size=there,
                headers=build_hf_headers(),
                expected_size=file.size,
                displayed_filename=path.name,
            )
    arrivals.files.replace(arrived, path)


class _Arrivals:
    """Bytes that came, from several threads; once `stopped`, writing any more fails."""

    def __init__(self, progress: ProgressDisplay):
        self.stopped, self.files = Event(), FileSystem(progress.say)
        self._progress, self._lock = progress, Lock()

    def count(self, nbytes: int) -> None:
        with self._lock:
            self._progress.advance(nbytes)


class _Counted:
    """A file whose writes are counted, and refused once the others have stopped."""

    def __init__(self, file: BinaryIO, arrivals: _Arrivals):
        self._file, self._arrivals = file, arrivals
        self.tell, self.seek, self.truncate = file.tell, file.seek, file.truncate

    def write(self, data: bytes) -> int:
        if self._arrivals.stopped.is_set():
            raise InterruptedError("stopped")
        self._arrivals.count(len(data))
        return self._file.write(data)


def told(repo: str, ask: Callable[[], Answer]) -> Answer:
    """The answer; what the client raises becomes a sentence."""
    from huggingface_hub import errors

    expected = (errors.HTTPError, errors.HFValidationError, OSError)
    try:
        return ask()
    except expected as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk
        raise UsageError(_sentence(repo, error)) from error


def _sentence(repo: str, error: Exception) -> str:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status in (401, 403):
        return (
            f"{repo} is not there or not open to you (the hub answered {status}); check the name, "
            "accept its terms on its page and log in with `hf auth login`."
        )
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    if response is not None:
        reason = f"{status} for {str(response.url).rpartition('/')[2] or repo}"
    return (
        f"{repo} cannot be fetched ({reason}); check the name and the connection, then run the "
        "command again, which continues."
    )
