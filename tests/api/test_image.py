"""`image`: a bundle in a container image. Tools that stand in for real ones record their calls;
where buildah is here, it builds the layers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nemotron_deploy.api.image import image
from nemotron_deploy.cli import run
from nemotron_deploy.core.bundle import Bundle, MadeFrom, building
from nemotron_deploy.core.errors import BadInputError, CheckFailedError, UsageError
from nemotron_deploy.core.record import Header
from nemotron_deploy.k8s.weights.image_tool import TOOLS

STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> "{log}"
while [ $# -gt 0 ]; do
    [ "$1" = --file ] && cp "$2" "{folder}/Containerfile"
    shift
done
exit {code}
"""


def make_bundle(path: Path, **cluster: str) -> Bundle:
    asked = {"gpu": "h100", "quant": "int4", "cluster": cluster}

    def make(dest: Path) -> None:
        (dest / "sub").mkdir()
        (dest / "sub" / "file").write_text("x")
        (dest / "engine.json").write_text(json.dumps({"image": "registry.example/server:1"}))

    header = Header(name="x-h100-int4", model_name="x", asked=asked)
    with building(path, header) as made:
        for stage in ("checkpoint", "engine", "model_repository", "k8s"):
            made.run_stage(stage, MadeFrom("encoding 1", stage), make)
    return Bundle.open(path)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle", weights="image", registry="registry.example/ai")


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], str]]:
    """Puts tools on PATH that record how they are called, and no others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "basename", "cp"):
        (folder / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(folder))

    def put(*names: str, code: int = 0) -> Callable[[], str]:
        log = folder / "log"
        for name in names:
            text = STAND_IN.format(log=log, folder=folder, code=code)
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        return lambda: log.read_text() if log.exists() else ""

    return put


@pytest.mark.parametrize("tool", TOOLS)
def test_one_command_builds_and_pushes(
    bundle: Bundle, stand_in: Callable[..., Callable[[], str]], tool: str
) -> None:
    calls = stand_in(tool)
    result = image(bundle.path, push=True)
    name = f"registry.example/ai/x-h100-int4:{bundle.files_digest}"
    assert (result.image, result.tool, result.pushed) == (name, tool, True)
    assert result.base == "registry.example/server:1"
    assert result.named_by_manifests
    build, push = calls().splitlines()
    assert build.startswith(f"{tool} build ")
    assert f" --tag {name} " in build
    assert build.endswith(f" {bundle.path}")
    assert push == f"{tool} push {name}"
    # Without it, buildah makes one layer of everything.
    assert ("--layers" in build) == (tool != "docker")


def test_the_first_tool_that_is_here_is_used(
    bundle: Bundle, stand_in: Callable[..., Callable[[], str]]
) -> None:
    stand_in("docker", "podman")
    assert image(bundle.path).tool == "podman"
    assert image(bundle.path, tool="docker").tool == "docker"


def test_another_registry_is_said_not_to_be_that_of_the_manifests(
    bundle: Bundle,
    stand_in: Callable[..., Callable[[], str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stand_in("podman")
    assert run(["image", str(bundle.path), "--registry", "mirror:5000"]) == 0
    shown = capsys.readouterr().out
    assert f"mirror:5000/x-h100-int4:{bundle.files_digest}: built with podman" in shown
    assert "build --weights image --registry mirror:5000" in shown


def test_what_cannot_be_built_is_one_message(
    bundle: Bundle, stand_in: Callable[..., Callable[[], str]], tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match="buildah, podman, docker: not on PATH"):
        image(bundle.path)
    with pytest.raises(UsageError, match="unknown --tool 'kaniko'; known are buildah"):
        image(bundle.path, tool="kaniko")
    stand_in("buildah", code=125)
    with pytest.raises(CheckFailedError, match="buildah build failed with exit code 125"):
        image(bundle.path)
    local = make_bundle(tmp_path / "local", weights="image")
    with pytest.raises(UsageError, match="--push needs a registry"):
        image(local.path, push=True)


def test_buildah_makes_small_layers_that_are_the_same_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_in: Callable[..., Callable[[], str]]
) -> None:
    """The COPY lines only: the check at the end needs a base image with Python."""
    buildah = shutil.which("buildah", path=os.defpath)
    if buildah is None:
        pytest.skip("there is no buildah here")
    stand_in("podman")
    layers: list[list[str]] = []
    for name in ("one", "two"):
        bundle = make_bundle(tmp_path / name, weights="image")
        image(bundle.path)
        text = (tmp_path / "bin" / "Containerfile").read_text()
        lines = [line for line in text.splitlines() if not line.startswith(("RUN", "FROM"))]
        file = tmp_path / "Containerfile"
        file.write_text("\n".join(["FROM scratch", *lines]))
        os.utime(bundle.path / "engine/sub/file", (len(name), 1_700_000_000 + len(layers)))
        layers.append(_layers(buildah, tmp_path / f"{name}-storage", file, bundle.path))
    assert len(layers[0]) == 5  # two folders of the checkpoint, engine, repository, record
    assert layers[0] == layers[1]


def _layers(buildah: str, storage: Path, file: Path, context: Path) -> list[str]:
    environment = {
        "PATH": os.defpath,
        "HOME": str(storage),
        "STORAGE_DRIVER": "vfs",
        "BUILDAH_ISOLATION": "chroot",
    }
    where = [buildah, "--root", str(storage / "root"), "--runroot", str(storage / "run")]

    def call(*words: str) -> str:
        done = subprocess.run([*where, *words], env=environment, capture_output=True, text=True)
        if "operation not permitted" in done.stderr:
            pytest.skip("buildah cannot mount here")
        assert done.returncode == 0, done.stderr
        return done.stdout

    call("build", "--layers", "--timestamp", "0", "--tag", "x", "--file", str(file), str(context))
    row = json.loads(call("inspect", "--type", "image", "x"))
    layers: list[str] = row["OCIv1"]["rootfs"]["diff_ids"]
    return layers
