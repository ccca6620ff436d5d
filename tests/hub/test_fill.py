"""`fill` with a checkpoint from the hub: what the Job of the manifests does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nemotron_deploy.core.bundle import Bundle
from nemotron_deploy.tests.hub.conftest import NAMES, REPOSITORY, run
from nemotron_deploy.tests.hub.stand_in import StandIn

OTHER = "ab" * 32


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    folder = tmp_path / "claim"
    folder.mkdir()
    return folder


def words(claim: Path, digest: str, revision: str = "") -> list[str]:
    options = ["--checkpoint", REPOSITORY + revision, "--gpu", "h100", "--quant", "bf16"]
    return ["fill", str(claim), "--digest", digest, "--", *options, "--context", "4096"]


def made_instead(hub: StandIn, claim: Path) -> str:
    """The bundle that the options make, as the refusal of another one says."""
    done = run(*words(claim, OTHER, f"@{hub.commit(REPOSITORY)}"))
    assert done.returncode == 3
    made = re.search(r"makes the bundle ([0-9a-f]{64});", done.stderr)
    assert made is not None
    return made[1]


def test_another_bundle_is_refused_before_weights_are_downloaded(hub: StandIn, claim: Path) -> None:
    made_instead(hub, claim)
    assert not set(NAMES) & set(hub.fetched())


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [(401, "", "hf auth login"), (403, "GatedRepo", REPOSITORY), (500, "", "later")],
)
def test_what_the_hub_refuses_is_one_message(
    hub: StandIn, claim: Path, status: int, code: str, said: str
) -> None:
    hub.faults.refuse = (status, code)
    done = run(*words(claim, OTHER))
    assert done.returncode == 4
    assert said in done.stderr
    assert done.stderr.count("error: ") == 1


def test_the_claim_holds_downloads_until_the_bundle_is_made(
    hub: StandIn, claim: Path, tmp_path: Path
) -> None:
    digest = made_instead(hub, claim)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "nemotron_deploy",
            *words(claim, digest, f"@{hub.commit(REPOSITORY)}"),
        ],
        env={**kept, "HF_ENDPOINT": hub.url, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert Bundle.open(claim / digest).inputs_digest == digest
    assert {path.name for path in claim.iterdir()} == {digest, ".building", ".used"}
    assert not (home / ".cache" / "huggingface").exists()
