"""Reasoning sealed for a client to bring back: all of it, and the proof that it was said here.

A client brings reasoning back trimmed, or only its seal, or that of another model. A seal that is
whole gives the reasoning as it was generated, so that it is found in the tokens it was generated
as; any other says nothing. It is no secret, since the client was shown what it holds.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import zlib
from pathlib import Path
from typing import Final

from cli.kept.private_files import private_folder, write_whole
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.file_systems import FileSystem

KEY_FILE: Final = "seals.key"
_KEY_BYTES: Final = 32
_VERSION: Final = b"\x01"
_MAC_BYTES: Final = 20


class Seals:
    """Seals of one installation; those of another, or of another owner, do not open."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def kept_in(cls, folder: Path) -> "Seals":
        """With the key in `folder`, made where there is none; OSError where that cannot be."""
        path = private_folder(folder, FileSystem()) / KEY_FILE
        key = _key_in(path)
        if key is None:
            key = secrets.token_bytes(_KEY_BYTES)
            try:
                write_whole(path, key, overwrite=path.exists())
            except UsageError:  # somebody else made it just now
                key = _key_in(path) or key
        return cls(key)

    @classmethod
    def for_now(cls) -> "Seals":
        """With a key that ends with the program."""
        return cls(secrets.token_bytes(_KEY_BYTES))

    def seal(self, owner: str, reasoning: str) -> str:
        """Base64 text for `opened`."""
        packed = zlib.compress(reasoning.encode("utf-8", "replace"))
        return base64.b64encode(_VERSION + self._mac(owner, packed) + packed).decode()

    def opened(self, owner: str, sealed: object) -> str | None:
        """The reasoning in `sealed`; None for whatever was not sealed here for `owner`."""
        if not isinstance(sealed, str):
            return None
        try:
            content = base64.b64decode(sealed.encode(), validate=True)
        except (binascii.Error, UnicodeEncodeError):
            return None
        start = len(_VERSION) + _MAC_BYTES
        mac, packed = content[len(_VERSION) : start], content[start:]
        if content[: len(_VERSION)] != _VERSION:
            return None
        if not hmac.compare_digest(mac, self._mac(owner, packed)):
            return None
        return zlib.decompress(packed).decode()

    def _mac(self, owner: str, packed: bytes) -> bytes:
        digest = hashlib.blake2b(key=self._key, digest_size=_MAC_BYTES, person=b"dsv4 reasoning")
        name = owner.encode("utf-8", "surrogatepass")
        digest.update(len(name).to_bytes(8, "little") + name + packed)
        return digest.digest()


def _key_in(path: Path) -> bytes | None:
    """The key in a file; None where there is none of the right size."""
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        return None
    return key if len(key) == _KEY_BYTES else None
