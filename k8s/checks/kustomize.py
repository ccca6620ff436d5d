"""Kustomize trees in a directory: what belongs to them, and what kubectl renders."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

NAMES: Final = ("kustomization.yaml", "kustomization.yml", "Kustomization")

_FOLDERS: Final = ("resources", "bases", "components")
_FILES: Final = (
    *_FOLDERS, "crds", "configurations", "generators", "transformers", "validators", "patches",
    "patchesStrategicMerge", "patchesJson6902", "replacements", "openapi", "configMapGenerator",
    "secretGenerator",
)  # fmt: skip
"""Fields of a kustomization that name files or directories."""

_PLAIN: Final = frozenset(("apiVersion", "kind", "metadata", "resources", "namespace"))
"""Fields that change nothing but the namespace."""

_REMOTE: Final = re.compile(r"(https?|ssh|git|file)(::|://)|git@|[a-z0-9-]+\.[a-z]{2,}/.*|.*\?ref=")
"""How a name begins that is fetched from elsewhere."""

_KUBECTL_S: Final = 60


class KustomizeError(Exception):
    """kubectl does not render a tree; the message is its own."""


class Kustomizations:
    """The kustomizations among the documents of a directory's files."""

    def __init__(self, root: Path, documents: Mapping[str, list[Any]]) -> None:
        self.root = root
        self._files = documents
        self._by_folder: dict[Path, tuple[str, dict[str, Any]]] = {}
        for file, found in documents.items():
            path = root / file
            if path.name in NAMES and len(found) == 1 and isinstance(found[0], dict):
                self._by_folder[path.parent] = (file, found[0])

    def roots(self) -> Iterator[tuple[Path, str]]:
        """Directory and file of each kustomization that is applied by itself: no component, and no
        part of another one."""
        parts = {path for folder in self._by_folder for path in self._named(folder, _FOLDERS)}
        for folder, (file, document) in self._by_folder.items():
            if folder not in parts and document.get("kind") != "Component":
                yield folder, file

    def claimed(self) -> set[str]:
        """The files that kustomizations name: they are no manifests by themselves."""
        paths = {path for folder in self._by_folder for path in self._named(folder, _FILES)}
        kustomizations = {file for file, _ in self._by_folder.values()}
        return kustomizations | {file for file in self._files if self.root / file in paths}

    def resources(self, folder: Path) -> list[str]:
        """The files of objects that a kustomization is made of, those of its bases included."""
        paths = [path for part in self._parts(folder) for path in self._named(part, _FOLDERS)]
        inside = [path for path in paths if path.is_file() and path.is_relative_to(self.root)]
        files = dict.fromkeys(path.relative_to(self.root).as_posix() for path in inside)
        return [file for file in files if file in self._files]

    def is_plain(self, folder: Path) -> bool:
        """Whether a kustomization only lists resources, in all of its parts."""
        return all(self._by_folder[part][1].keys() <= _PLAIN for part in self._parts(folder))

    def obstacle(self, folder: Path) -> str | None:
        """Why a kustomization cannot be rendered from what is in the directory."""
        for part in self._parts(folder):
            document = self._by_folder[part][1]
            if "helmCharts" in document:
                return "it has Helm charts"
            for text in _texts(document, _FILES):
                if "\n" not in text and _REMOTE.match(text) and not _exists(part / text):
                    return f"{text} is on the network"
        return None

    def _parts(self, folder: Path) -> list[Path]:
        """The kustomization in a directory, and those that it is made of."""
        parts = [folder]
        for part in parts:  # grows
            named = self._named(part, _FOLDERS)
            parts += [path for path in named if path in self._by_folder and path not in parts]
        return parts

    def _named(self, folder: Path, fields: tuple[str, ...]) -> Iterator[Path]:
        """The existing paths that fields of a kustomization name."""
        for text in _texts(self._by_folder[folder][1], fields):
            name = text.rpartition("=")[2]
            if name and _exists(folder / name) and (path := (folder / name).resolve()) != folder:
                yield path


def _exists(path: Path) -> bool:
    """Whether there is such a file; names that no file can have are those of none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _texts(document: dict[str, Any], fields: tuple[str, ...]) -> Iterator[str]:
    """Every text in the values of some fields."""
    pending = [document.get(field) for field in fields]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += reversed(value)


def find_kubectl() -> str | None:
    """The path of kubectl."""
    return shutil.which("kubectl")


def rendered(kubectl: str, folder: Path) -> str:
    """What kubectl renders of a directory. Raises `KustomizeError`."""
    command = [kubectl, "kustomize", str(folder)]
    # kustomize takes a name that is no file for a repository, and would call git. With fewer
    # garbage collections, kubectl takes a fifth less time.
    environment = {"GOGC": "400", **os.environ, "GIT_ALLOW_PROTOCOL": "none"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=_KUBECTL_S, env=environment)
    except subprocess.TimeoutExpired:
        raise KustomizeError(f"kubectl kustomize did not end within {_KUBECTL_S} s") from None
    except OSError as error:
        raise KustomizeError(f"kubectl does not start: {error.strerror}") from None
    if done.returncode:
        message = " ".join(done.stderr.decode(errors="replace").split())
        raise KustomizeError(f"kubectl kustomize: {message}")
    return done.stdout.decode(errors="replace")
