"""Decide whether the code in a bundle may run here: is it unchanged, and what this version writes?

Compiled kernels are compared with their recorded digests only: to compare them with what this
version would write, they would have to be compiled again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from .. import __version__
from ..build.engines.tensorrt_llm import experts
from ..core.bundle import Bundle
from ..core.errors import CheckFailedError, UsageError
from ..core.files import list_files, sha256
from ..core.progress import Progress, Silent

VERIFY: Final = ("quick", "full")
"""How much is hashed before a bundle's code runs: the code, or every file."""

_SERVED: Final = ("checkpoint", "engine", "model_repository")
_PLUGIN: Final = f"engine/{experts.PLUGIN}/"
_CODE_FOLDERS: Final = ("model_repository/", _PLUGIN, f"engine/{experts.KERNELS}/")
_ALWAYS_HASHED: Final = ("model_repository/", "engine/")
_CODE_SUFFIXES: Final = frozenset({".py", ".pyc", ".so"})
_NAMED: Final = 3


def require_trusted(
    bundle: Bundle,
    verify: str = "quick",
    trust_code: bool = False,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Check a bundle before its code runs; gives the files whose code is trusted as it is.

    `quick` compares all sizes, hashes code and engine, and compares the code with what this version
    writes; `full` hashes every file. `trust_code` allows code that differs. Raises `UsageError` for
    an unknown `verify`, and `CheckFailedError` for files that are damaged or links, and for code
    that differs and is not trusted.
    """
    if verify not in VERIFY:
        raise UsageError(f"--verify {verify!r}: must be one of {', '.join(VERIFY)}")
    bundle.require_complete()
    present = _present(bundle.path)
    recorded = {name for name in bundle.files if name.split("/")[0] in _SERVED}
    changed = _changed(bundle, recorded & present, verify, progress or Silent())
    differing = sorted({*changed, *(recorded ^ present)})
    damaged = [name for name in differing if not _is_code(name)]
    if damaged:
        raise CheckFailedError(
            f"{bundle.path}: {_some(damaged)}: not as recorded in bundle.json (missing, changed or "
            "added); build the bundle again, or copy it again from where it was built"
        )
    other = tuple(sorted({*differing, *_unlike_ours(bundle, present)}))
    if other and not trust_code:
        raise CheckFailedError(
            f"{bundle.path}: {_some(other)}: not the code that nemo-deploy {__version__} writes; "
            "review it and add --trust-code to run it, or build the bundle again"
        )
    return other


def open_trusted(path: Path, verify: str, trust_code: bool, progress: Progress) -> Bundle:
    """The bundle at `path`, whose code may run here; a step names what --trust-code allowed.

    Raises what `Bundle.open` and `require_trusted` raise.
    """
    bundle = Bundle.open(path)
    if trusted := require_trusted(bundle, verify, trust_code, progress):
        progress.step(trusted_note(trusted))
    return bundle


def trusted_note(names: tuple[str, ...]) -> str:
    """A note that names the files that --trust-code allowed; empty if there are none."""
    return f"differs from this version's, trusted (--trust-code): {_some(names)}" if names else ""


def _some(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _is_code(name: str) -> bool:
    return name.startswith(_CODE_FOLDERS) or PurePosixPath(name).suffix in _CODE_SUFFIXES


def _present(root: Path) -> set[str]:
    """Every file of the served folders. Raises `CheckFailedError` for links and special files."""
    names: set[str] = set()
    for folder in _SERVED:
        if (root / folder).is_symlink():
            raise CheckFailedError(f"{root / folder}: is a symbolic link; bundles contain none")
        names.update(list_files(root, root / folder))
    for name in sorted(names):
        path = root / name
        if path.is_symlink() or not path.is_file():
            raise CheckFailedError(
                f"{path}: is a symbolic link or not a regular file; bundles contain neither"
            )
    return names


def _changed(bundle: Bundle, names: set[str], verify: str, progress: Progress) -> Iterator[str]:
    """The files whose size or digest differs from the record."""
    sizes = {name: int(bundle.files[name].bytes) for name in names}
    hashed = {
        name
        for name in names
        if verify == "full" or name.startswith(_ALWAYS_HASHED) or _is_code(name)
    }
    advance = progress.step("digests", sum(sizes[name] for name in hashed), unit="bytes")
    done = 0
    for name in sorted(names):
        path, row = bundle.path / name, bundle.files[name]
        if path.stat().st_size != sizes[name]:
            yield name
        elif name in hashed:
            if sha256(path) != row.sha256:
                yield name
            done += sizes[name]
            advance(done)


def _unlike_ours(bundle: Bundle, present: set[str]) -> set[str]:
    """Files of the model repository and the plugin that differ from what this version writes."""
    ours = _our_code(bundle, present)
    compared = {
        name
        for name in present
        if name.startswith("model_repository/")
        or (name.startswith(_PLUGIN) and PurePosixPath(name).suffix != ".json")
    }
    other = compared ^ ours.keys()
    other |= {n for n in compared & ours.keys() if (bundle.path / n).read_bytes() != ours[n]}
    return other


def _our_code(bundle: Bundle, present: set[str]) -> dict[str, bytes]:
    from .. import triton_repo

    config = f"model_repository/{bundle.model_name}/config.pbtxt"
    unknown = triton_repo.Settings("", 0)
    try:
        settings = triton_repo.read_settings(bundle.path / config) if config in present else unknown
    except ValueError:
        settings = unknown  # not a configuration that we wrote, so it will differ
    code = {
        f"model_repository/{name}": content
        for name, content in triton_repo.contents(bundle.model_name, settings)
    }
    if any(name.startswith(_PLUGIN) for name in present):
        code |= {f"engine/{name}": content for name, content in experts.plugin_code()}
    return code
