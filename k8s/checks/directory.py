"""Checking a directory of manifests that anybody may have written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ...core.errors import BadInputError
from .apply import judge
from .documents import NotRead, objects_of, parse, unreadable
from .findings import ERROR, Finding
from .kustomize import NAMES, Kustomizations, KustomizeError, find_kubectl, rendered
from .object_set import KubeObject

KUSTOMIZE: Final = "kustomize"
"""The rule of findings about trees that kubectl does not render."""

_SUFFIXES: Final = (".yaml", ".yml", ".json")
_TEMPLATE: Final = b"{{"
_MOST_FILES: Final = 20_000
_LARGEST: Final = 4_000_000


@dataclass(frozen=True, slots=True)
class Note:
    """Something that was not checked, or not as it will be applied, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class Tree:
    """Objects that are applied together; `file` is their kustomization, empty without one."""

    file: str
    objects: tuple[KubeObject, ...]


@dataclass(slots=True)
class Manifests:
    """What a directory holds.

    Attributes:
        documents: Of every file that was read, by its path.
        trees: Those of kustomize, and one of all other objects.
        findings: Files that cannot be read, and what is malformed in them.
        notes: What was not checked.
    """

    documents: dict[str, list[Any]] = field(default_factory=dict)
    trees: list[Tree] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class DirectoryReport:
    """What the rules say of a directory: `objects` is how many were checked."""

    objects: int
    findings: tuple[Finding, ...]
    notes: tuple[Note, ...]


def check_directory(directory: Path) -> DirectoryReport:
    """Check the manifests in a directory and below it, or in one file.

    Raises `BadInputError` where there is nothing to check.
    """
    manifests = load(directory)
    findings = list(manifests.findings)
    for tree in manifests.trees:
        findings += judge(tree.objects).findings
    return DirectoryReport(
        sum(len(tree.objects) for tree in manifests.trees),
        tuple(sorted(dict.fromkeys(findings), key=lambda f: (f.severity, f.file, f.object))),
        tuple(manifests.notes),
    )


def load(directory: Path) -> Manifests:
    """Read a directory. Raises `BadInputError` where there is nothing to read."""
    directory = directory.absolute()
    if not directory.exists():
        raise BadInputError(f"{directory}: no such directory. Give a directory of manifests")
    root = (directory if directory.is_dir() else directory.parent).resolve()
    manifests = Manifests()
    if directory.is_dir():
        for file in _files(root, manifests):
            _read(root, file, manifests)
    else:
        _read(root, directory.name, manifests)
    if not (manifests.documents or manifests.findings or manifests.notes):
        raise BadInputError(
            f"{directory}: has no manifests (.yaml, .yml or .json files). Give the directory that "
            "has them"
        )
    _build_trees(root, manifests)
    return manifests


def _files(root: Path, manifests: Manifests) -> Iterator[str]:
    """Paths of the files that may be manifests; directories of tools are left out."""

    def refuse(error: OSError) -> None:
        if Path(error.filename) == root:
            raise BadInputError(f"{root}: cannot be read: {error.strerror}") from error
        file = Path(error.filename).relative_to(root).as_posix()
        manifests.findings.append(unreadable(file, f"cannot be read: {error.strerror}", _READABLE))

    count = 0
    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n != "node_modules")
        for name in sorted(names):
            if name.endswith(_SUFFIXES) or name in NAMES:
                count += 1
                if count > _MOST_FILES:
                    raise BadInputError(f"{root}: has over {_MOST_FILES} files. Give a smaller one")
                yield (Path(folder) / name).relative_to(root).as_posix()


_READABLE: Final = "Make it readable, or leave it out"


def _read(root: Path, file: str, manifests: Manifests) -> None:
    path = root / file
    try:
        if not path.is_file():
            return  # a directory, a socket or a broken link of that name
        with path.open("rb") as opened:
            data = opened.read(_LARGEST + 1)
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        manifests.findings.append(unreadable(file, reason, _READABLE))
        return
    if len(data) > _LARGEST:
        manifests.notes.append(Note(file, f"not checked: it has over {_LARGEST} bytes"))
    elif _TEMPLATE in data and _is_in_chart(root, path):
        manifests.notes.append(Note(file, _HELM))
    else:
        _parse(file, data, manifests)


def _parse(file: str, data: bytes, manifests: Manifests) -> None:
    """Add the documents of a file. One that does not parse is an error if it is meant to be a
    manifest: directories also have other files in YAML, with tags of their own."""
    try:
        manifests.documents[file] = parse(data.decode())
    except NotRead as error:
        manifests.notes.append(Note(file, f"not checked: {error}"))
    except (ValueError, RecursionError) as error:
        is_text = not isinstance(error, UnicodeDecodeError)
        reason = str(error) if is_text else "it is not text in UTF-8"
        if _TEMPLATE in data or b"{%" in data:
            manifests.notes.append(Note(file, _HELM))
        elif b"apiVersion" in data:
            manifests.findings.append(unreadable(file, reason))
        else:
            said = " ".join(reason.split())
            manifests.notes.append(Note(file, f"not checked: not a manifest, and not YAML: {said}"))


_HELM: Final = (
    "not checked: it is a template, not YAML. Render it (helm template) and check the result"
)


def _is_in_chart(root: Path, path: Path) -> bool:
    """Whether a file is one of a Helm chart's templates."""
    inside = [parent for parent in path.parents if parent.is_relative_to(root)]
    return any(p.name == "templates" and (p.parent / "Chart.yaml").is_file() for p in inside)


def _build_trees(root: Path, manifests: Manifests) -> None:
    kustomizations = Kustomizations(root, manifests.documents)
    for folder, file in kustomizations.roots():
        _add_kustomize_tree(kustomizations, folder, file, manifests)
    claimed = kustomizations.claimed()
    plain = [name for name in manifests.documents if name not in claimed]
    manifests.trees.append(Tree("", _objects(plain, manifests)))


def _objects(files: list[str], manifests: Manifests) -> tuple[KubeObject, ...]:
    objects: list[KubeObject] = []
    for file in files:
        found, findings = objects_of(file, manifests.documents[file])
        objects += found
        manifests.findings += findings
    return tuple(objects)


def _add_kustomize_tree(
    kustomizations: Kustomizations, folder: Path, file: str, manifests: Manifests
) -> None:
    """Add what kubectl renders of a kustomization; without kubectl, its resources as they are."""
    kubectl, sources = find_kubectl(), kustomizations.resources(folder)
    obstacle = kustomizations.obstacle(folder)
    if kubectl is None or obstacle is not None:
        if obstacle is not None:
            manifests.notes.append(Note(file, f"not rendered: {obstacle}"))
        elif not kustomizations.is_plain(folder):
            manifests.notes.append(Note(file, _NO_KUBECTL))
        manifests.trees.append(Tree(file, _objects(sources, manifests)))
        return
    try:
        documents = parse(rendered(kubectl, folder))
    except NotRead as error:
        manifests.notes.append(Note(file, f"not checked: {error}"))
        return
    except (KustomizeError, ValueError) as error:
        manifests.findings.append(
            Finding(KUSTOMIZE, ERROR, file, "", "", str(error), "Correct the kustomization")
        )
        return
    written = {item.title: item.file for item in _objects(sources, Manifests(manifests.documents))}
    objects, findings = objects_of(file, documents)
    manifests.findings += findings
    placed = (KubeObject(written.get(o.title, file), o.document, o.prefix) for o in objects)
    manifests.trees.append(Tree(file, tuple(placed)))


_NO_KUBECTL: Final = (
    "not rendered, because there is no kubectl on the PATH: its resources were checked as they "
    "are, without patches and generators"
)
