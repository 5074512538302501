"""Headers of the complete releases, written once for all tests that plan with them."""

from pathlib import Path

import pytest

from dsv4_mlx.release.config import FLASH, PRO
from tests.convert.headers import write_headers


@pytest.fixture(scope="session")
def flash_headers(tmp_path_factory) -> Path:
    """V4-Flash without a weight."""
    return write_headers(tmp_path_factory.mktemp("headers") / "flash", FLASH, 46)


@pytest.fixture(scope="session")
def pro_headers(tmp_path_factory) -> Path:
    """V4-Pro without a weight."""
    return write_headers(tmp_path_factory.mktemp("headers") / "pro", PRO, 64)
