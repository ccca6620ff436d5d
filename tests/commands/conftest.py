from __future__ import annotations

from pathlib import Path

import pytest

from nemotron_deploy.core.bundle import Bundle
from nemotron_deploy.k8s.deploy import watch
from nemotron_deploy.tests.commands.fake_cluster import FAKE, Cluster, make


@pytest.fixture
def cluster(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A cluster behind the fake kubectl; watches do not rest between two looks."""
    folder = tmp_path / "fake"
    folder.mkdir()
    (folder / "bin").mkdir()
    (folder / "bin" / "kubectl").symlink_to(FAKE)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_KUBECTL", str(folder))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(watch, "EVERY_S", 0.0)
    monkeypatch.setattr(watch, "SETTLE_S", 0.0)
    monkeypatch.setattr(watch, "NODE_S", 0.0)
    return Cluster(folder, Bundle.open(bundle).inputs_digest)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A complete bundle with one file in each stage."""
    return make(tmp_path / "nano")
