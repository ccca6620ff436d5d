"""Build the image of nemo-deploy without a registry, for the nodes of a test cluster.

    python scripts/cluster_image.py ARCHIVE

The base is Debian from debootstrap, packages come from the index that pip is configured for, and
buildah runs the `Containerfile`. All of it is kept in the cache directory (`NEMO_DEPLOY_CACHE`), so
that only the first run takes minutes. ARCHIVE is what `ctr images import` reads. Needs root.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Final

from nemotron_deploy.core.result import MADE_BY

ROOT: Final = Path(__file__).resolve().parent.parent
IMAGE: Final = f"localhost/{MADE_BY.replace(' ', ':')}"
BASE: Final = "localhost/debian-python:bookworm"
PACKAGES: Final = "python3,python3-venv,python3-pip,libpython3.11,ca-certificates"
EXTRAS: Final = ("quantize", "local", "tracing")
TOOLS: Final = ("buildah", "debootstrap", "tar")

PIP_CONFIGURATION: Final = """\
[global]
no-index = true
find-links = /wheels
disable-pip-version-check = true
"""


def main() -> int:
    """Build the image and write the archive, unless it is there already."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return 2
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        print(f"needs root and {', '.join(TOOLS)}; missing: {', '.join(missing) or 'root'}")
        return 2
    archive = Path(sys.argv[1]).absolute()
    archive.parent.mkdir(parents=True, exist_ok=True)
    cache = _cache() / "cluster-image"
    cache.mkdir(parents=True, exist_ok=True)
    buildah = Buildah(cache)
    buildah.base(debian(cache))
    image = buildah.build(wheels(cache))
    written = archive.with_suffix(".id")
    if not archive.exists() or not written.exists() or written.read_text() != image:
        archive.unlink(missing_ok=True)
        buildah("push", "--quiet", IMAGE, f"docker-archive:{archive}:{IMAGE}")
        written.write_text(image)
    print(f"{archive}: {IMAGE}, {archive.stat().st_size / 1e9:.2f} GB")
    return 0


def _cache() -> Path:
    given = os.environ.get("NEMO_DEPLOY_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "nemo-deploy"


def debian(cache: Path) -> Path:
    """An archive of a Debian with Python 3.11, without documentation and package lists."""
    archive = cache / "debian.tar"
    if not archive.exists():
        with _folder(cache / "debian") as root:
            _run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root)
            excluded = ("dev/*", "var/cache/*", "var/lib/apt/lists/*", "usr/share/doc/*",
                        "usr/share/locale/*", "usr/share/man/*")  # fmt: skip
            partial = archive.with_suffix(".partial")
            options = [f"--exclude=./{pattern}" for pattern in excluded]
            _run("tar", "--create", f"--file={partial}", f"--directory={root}", *options, ".")
            partial.rename(archive)
    return archive


def wheels(cache: Path) -> Path:
    """A folder of wheels of everything that the image installs beside this project."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    chosen = [project["optional-dependencies"][extra] for extra in EXTRAS]
    needed = [*project["dependencies"], *chain(*chosen), (ROOT / "constraints.txt").read_text()]
    digest = hashlib.sha256("\n".join(needed).encode()).hexdigest()
    folder = cache / f"wheels-{digest[:16]}"
    if not folder.exists():
        for outdated in cache.glob("wheels-*"):
            shutil.rmtree(outdated)
        with _folder(cache / "wheels") as partial:
            _run(
                sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check",
                f"--constraint={ROOT / 'constraints.txt'}", f"--wheel-dir={partial}",
                "torch", "setuptools>=80", f"{ROOT}[{','.join(EXTRAS)}]",
            )  # fmt: skip
            for own in partial.glob("nemotron_deploy-*.whl"):
                own.unlink()
            partial.rename(folder)
    return folder


class Buildah:
    """buildah with its storage in the cache; containers are chroots that use the host's network."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.storage = (f"--root={cache / 'containers'}", f"--runroot={cache / 'run'}")
        self.environment = {"STORAGE_DRIVER": "overlay", "BUILDAH_ISOLATION": "chroot"}

    def __call__(self, *arguments: str | Path) -> str:
        """Run a command; returns what it printed."""
        return _run("buildah", *self.storage, *arguments, **self.environment).strip()

    def base(self, archive: Path) -> None:
        """Import the base, once."""
        if self("images", "--quiet", "--filter", f"reference={BASE}"):
            return
        container = self("from", "scratch")
        self("add", "--quiet", container, archive, "/")
        self("commit", "--quiet", "--rm", container, BASE)

    def build(self, wheels: Path) -> str:
        """Run the `Containerfile`, and return the image's id."""
        configuration = self.cache / "pip.conf"
        configuration.write_text(PIP_CONFIGURATION)
        identity = self.cache / "image-id"
        self(
            "bud", "--quiet", "--layers", f"--build-arg=BASE_IMAGE={BASE}",
            "--build-arg=TORCH_INDEX=", f"--build-arg=EXTRAS={' '.join(EXTRAS)}",
            f"--volume={wheels}:/wheels:ro", f"--volume={configuration}:/etc/pip.conf:ro",
            f"--file={ROOT / 'Containerfile'}", f"--tag={IMAGE}", f"--iidfile={identity}", ROOT,
        )  # fmt: skip
        return identity.read_text()


def _run(*command: str | Path, **environment: str) -> str:
    """Standard output of a command. Exits with it where the command fails."""
    given = {**os.environ, **environment}
    done = subprocess.run(
        [*map(str, command)], env=given, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout[-4000:]}\n{command[0]} ended with {done.returncode}")
    return done.stdout


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """A new folder that does not outlive its use under this name."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
