"""`owner/name[@revision]`: how a model repository is named on the command line. Its address, as a
browser shows it, names it, too."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from ..core.errors import BadInputError
from ..runtime.contract import HF_ENDPOINT

DEFAULT_REVISION: Final = "main"

HOSTS: Final = frozenset({"huggingface.co", "www.huggingface.co", "hf.co", "www.hf.co"})
"""Hosts of the hub. That of `HF_ENDPOINT`, a mirror, counts as one."""

OTHER_HOSTS: Final = {
    "github.com": "GitHub has code, not weights",
    "catalog.ngc.nvidia.com": "NGC's checkpoints are downloaded with its own `ngc` tool",
    "build.nvidia.com": "that page serves the model through an API",
    "modelscope.cn": "ModelScope's repositories are downloaded with its own `modelscope` tool",
}
"""Where people look for models besides, and what is there."""

_PART: Final = r"(?!.*(?:--|\.\.))[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(?<![.-])"
_REPOSITORY: Final = re.compile(rf"{_PART}/{_PART}")
_REVISION: Final = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/+-]{0,254}(?<![./])")
_SCHEME: Final = re.compile(r"(?:https?|git\+https?|ssh|git)://", re.IGNORECASE)
_GIT: Final = re.compile(r"git@([\w.-]+):(.*)", re.DOTALL)
_VIEWS: Final = frozenset({"tree", "blob", "resolve", "raw", "commit", "commits"})
"""What may follow a repository in an address, with a revision after it."""


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository and a branch, tag or commit of it."""

    repository: str
    revision: str = DEFAULT_REVISION

    def __str__(self) -> str:
        plain = self.revision == DEFAULT_REVISION
        return self.repository if plain else f"{self.repository}@{self.revision}"


def parse_name(text: str) -> HubName | None:
    """`text` as the name of a repository, or None where it is not one (a path, a short name).

    Raises `BadInputError` for a repository's name with an invalid revision.
    """
    repository, at, revision = text.partition("@")
    if not _REPOSITORY.fullmatch(repository):
        return None
    if not at:
        return HubName(repository)
    if not _REVISION.fullmatch(revision):
        raise BadInputError(
            f"{text}: {revision!r} is not a revision; write owner/name@branch, @tag or @commit"
        )
    return HubName(repository, revision)


def from_address(text: str) -> str:
    """The name of the repository that `text` is the address of; `text` itself where it is none.

    Raises `BadInputError` for an address of another host, or of no model repository.
    """
    address = text.strip()
    if address.lower().startswith("hf://"):
        return _named(text, address[len("hf://") :].removeprefix("models/"))
    if git := _GIT.fullmatch(address):
        host, path = git[1], git[2]
    elif _SCHEME.match(address):
        parts = urlsplit(_SCHEME.sub("//", address, count=1))
        host, path = parts.netloc.rpartition("@")[2], parts.path
    else:
        address = re.split("[?#]", address, maxsplit=1)[0]
        host, slash, path = address.partition("/")
        if not slash or (host.lower() not in _hub_hosts() and host.lower() not in OTHER_HOSTS):
            return _without_host(text, address)
    if host.lower() not in _hub_hosts():
        raise BadInputError(_elsewhere(text, host.lower()))
    return _named(text, path)


def _without_host(text: str, address: str) -> str:
    """As `from_address`, for what begins with the owner's name."""
    parts = address.split("/")
    if len(parts) > 3 and parts[2] in _VIEWS:
        return _named(text, address)
    plain = address.removesuffix("/")
    return plain if _REPOSITORY.fullmatch(plain) else text


def _hub_hosts() -> frozenset[str]:
    endpoint = os.environ.get(HF_ENDPOINT.name, "")
    mirror = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").netloc.lower()
    return HOSTS | ({mirror} if mirror else frozenset())


def _named(text: str, path: str) -> str:
    """The repository in the path of an address, with its revision."""
    parts = [unquote(part) for part in path.split("/") if part]
    if parts[:1] == ["models"]:
        parts = parts[1:]
    if parts[:1] in (["datasets"], ["spaces"], ["collections"], ["papers"]):
        raise BadInputError(
            f"{text}: is the address of one of the hub's {parts[0]}, not of a model; "
            "pass a model's owner/name"
        )
    owner, name, view, *rest = [*parts, "", "", ""]
    name, at, revision = name.removesuffix(".git").partition("@")
    if view in _VIEWS and rest[0]:
        # A branch's name may have a slash, which the hub shows as %2F; refs/pr/3 it does not.
        count = 3 if rest[0] == "refs" else 1
        at, revision = "@", "/".join(rest[:count]).rstrip("/")
    plain = f"{owner}/{name}"
    named = plain + (f"@{revision}" if at and revision != DEFAULT_REVISION else "")
    if not _REPOSITORY.fullmatch(plain) or parse_name(named) is None:
        raise BadInputError(
            f"{text}: is not the address of a model repository; pass its owner/name[@revision]"
        )
    return named


def _elsewhere(text: str, host: str) -> str:
    known = OTHER_HOSTS.get(host.removeprefix("www."))
    return (
        f"{text}: {known or f'{host} is not the Hugging Face hub'}. Pass the owner/name of a "
        "repository on the Hugging Face hub, or the directory of a download; if this is a mirror "
        "of the hub, set HF_ENDPOINT to its address"
    )
