"""Failures of the hub, each kind as one message that says what to do next."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from ..core.errors import BadInputError
from .name import HubName


class UnreachableError(BadInputError):
    """The hub cannot be reached, or must not be. What is cached may still be enough."""


class ChangedError(BadInputError):
    """A file differs from what the hub lists."""


@contextmanager
def explained(name: HubName, file: str | None = None) -> Iterator[None]:
    """Turn whatever huggingface_hub raises about `file` of `name` into a `BadInputError`.

    The original message is not repeated, because it may contain a signed URL.
    """
    import httpx
    from huggingface_hub import errors as hub

    where = f"{name}: {file}" if file else str(name)
    try:
        yield
    except (BadInputError, KeyboardInterrupt):
        raise
    except hub.LocalEntryNotFoundError as error:
        raise _explain(error.__cause__ or error, name, where) from error
    except (hub.OfflineModeIsEnabled, httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise _explain(error, name, where) from error
    except ImportError as error:
        if not str(error).startswith("Using SOCKS proxy"):
            raise
        raise BadInputError(
            f"{where}: the proxy {_proxy()} needs the package socksio; install it with "
            "pip install 'httpx[socks]'"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        if "proxy" in str(error):
            raise BadInputError(
                f"{where}: the proxy {_proxy()}, which the environment names, cannot be used; its "
                "address must begin with http://, https:// or socks5://"
            ) from error
        raise BadInputError(
            f"{where}: {_endpoint()} did not answer as a hub does; is HF_ENDPOINT right?"
        ) from error


def _explain(error: BaseException, name: HubName, where: str) -> BadInputError:
    import httpx
    from huggingface_hub import errors as hub

    if isinstance(error, hub.OfflineModeIsEnabled):
        return _unreachable(where, name, "HF_HUB_OFFLINE is set")
    if isinstance(error, hub.HfHubHTTPError):
        return BadInputError(f"{where}: {_refusal(error, name)}")
    if isinstance(error, hub.FileMetadataError):
        return BadInputError(
            f"{where}: {_endpoint()} sent no commit or ETag for it; is HF_ENDPOINT right?"
        )
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
        return _unreachable(where, name, _no_connection(error))
    if isinstance(error, httpx.HTTPError) or _was_cut(error):
        return UnreachableError(
            f"{where}: the connection to {_endpoint()} dropped and could not be resumed. Run the "
            "same command again; complete files are kept"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BadInputError(
            f"{where}: the disk is full. Free some space, set HF_HUB_CACHE to another disk, or use "
            "--low-disk; complete files are kept"
        )
    reason = getattr(error, "strerror", None) or type(error).__name__
    return BadInputError(f"{where}: cannot be downloaded: {reason}")


def _no_connection(error: BaseException) -> str:
    """Why there is no connection: a proxy that is down looks like a hub that is down."""
    proxy = _proxy()
    if proxy is None:
        return "no connection"
    answered = re.match(r"\d{3}\b[ \w-]*", str(error))
    if answered:
        return f"the proxy {proxy} answered: {answered[0].strip()}"
    return f"no connection through the proxy {proxy}, which the environment names; is it running?"


def _proxy() -> str | None:
    """The proxy that requests to the hub go through, without user and password."""
    endpoint = urlsplit(_endpoint())
    if proxy_bypass(endpoint.hostname or ""):
        return None
    proxies = getproxies()
    proxy = proxies.get(endpoint.scheme) or proxies.get("all")
    return re.sub(r"//[^/@]*@", "//", proxy) if proxy else None


def _refusal(error: BaseException, name: HubName) -> str:
    """The meaning of the hub's error status."""
    from huggingface_hub import errors as hub

    assert isinstance(error, hub.HfHubHTTPError)
    status = error.response.status_code
    if isinstance(error, hub.GatedRepoError):
        return (
            f"this repository is gated. Accept its terms at {_endpoint()}/{name.repository}, then "
            "log in with `hf auth login`"
        )
    if isinstance(error, hub.RevisionNotFoundError):
        return f"there is no revision {name.revision!r}; its page lists branches, tags and commits"
    if isinstance(error, hub.RemoteEntryNotFoundError):
        return "the repository has no such file at this revision"
    if status == 401:
        return (
            "the hub requires a login (401). The repository is private, gated or does not exist; "
            "check the name, and log in with `hf auth login`"
        )
    if status == 403:
        return (
            "access is forbidden (403). Ask the owner for access, and log in with `hf auth login` "
            "using a token that may read the repository"
        )
    if status == 404:
        return "there is no such local directory and no such repository on the hub; check the name"
    if status == 429:
        return "the hub received too many requests (429). Wait some minutes, or log in"
    return f"the hub answered with status {status}. Try again later"


def _unreachable(where: str, name: HubName, reason: str) -> UnreachableError:
    folder = name.repository.rpartition("/")[2]
    return UnreachableError(
        f"{where}: {_endpoint()} cannot be reached ({reason}). Without the hub, `inspect` and "
        "`plan` work for known models, and every command works for `tiny` and for local "
        f"directories. On a machine with internet access, run `hf download {name.repository} "
        f"--revision {name.revision} --local-dir {folder}`; then pass --checkpoint {folder}"
    )


def was_interrupted(error: BaseException) -> bool:
    """Whether another attempt at the download may succeed."""
    import httpx

    return isinstance(error, httpx.ReadError | httpx.ReadTimeout) or _was_cut(error)


def _was_cut(error: BaseException) -> bool:
    # huggingface_hub's own length check is a plain OSError without a number.
    return type(error) is OSError and error.errno is None


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT
