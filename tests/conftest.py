"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from nemotron_deploy.models import TINY

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line does, before torch is there

# No test asks the real hub for anything; those of `hub/` have a stand-in.
os.environ["HF_HUB_OFFLINE"] = "1"

# Shared machines are slow at times; no test is about speed.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture
def golden() -> Callable[[Path, str], None]:
    """Compares text with a golden file, or rewrites the file when UPDATE_GOLDEN=1 is set."""

    def compare(path: Path, text: str) -> None:
        if os.environ.get("UPDATE_GOLDEN") == "1":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{path} differs; see UPDATE_GOLDEN=1"

    return compare


@pytest.fixture
def tiny_copy(tmp_path: Path) -> Path:
    """A copy of the embedded checkpoint that a test may damage."""
    return Path(shutil.copytree(TINY, tmp_path / "checkpoint"))
