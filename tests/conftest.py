"""Fixtures shared by all Python tests."""

import os
from pathlib import Path

import pytest

_BESIDE_CHECKOUT = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images, scores and released weights, which is never part of the repository.

    It lies in ``shared/data`` beside the checkout; the environment variable MEON_SHARED_DATA names another place.
    Tests that need it are skipped where it is absent, and fail in continuous integration (CI=true).
    """
    folder = Path(os.environ.get("MEON_SHARED_DATA") or _BESIDE_CHECKOUT)
    if not (folder / "README.md").is_file():
        message = f"no shared data in {folder}; set MEON_SHARED_DATA to the folder that holds it"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return folder
