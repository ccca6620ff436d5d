"""Where metrics come from: a page of a server or an exporter, or `nvidia-smi`."""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from ...core.errors import BadInputError, NemoDeployError, UsageError
from ...runtime import contract
from .. import endpoint
from ..permission import require_permitted
from . import catalog
from .exposition import Key, read

if TYPE_CHECKING:
    import httpx

TIMEOUT_S: Final = 1.0
_MOST_BYTES: Final = 4 * 2**20
_SMI: Final = (
    "nvidia-smi",
    "--query-gpu=index,utilization.gpu,memory.used,power.draw",
    "--format=csv,noheader,nounits",
)
_SMI_COLUMNS: Final = (catalog.UTILISATION_SMI, catalog.MEMORY_SMI, catalog.POWER_SMI)


class Source(Protocol):
    """Something that reports metrics; `name` says what. An `optional` one is left out where it does
    not answer at first."""

    name: str
    optional: bool

    def sample(self) -> dict[Key, float]:
        """The present values. Raises `OSError` with a message where there are none."""

    def close(self) -> None:
        """Free what was opened."""


class Page:
    """A page in Prometheus' format at an HTTP address."""

    def __init__(self, url: str, *, optional: bool) -> None:
        self.name, self.optional = url, optional
        self._client: httpx.Client | None = None

    def sample(self) -> dict[Key, float]:
        """See `Source`."""
        import httpx  # slow to import, and so are the certificates that only HTTPS needs

        self._client = self._client or httpx.Client(
            timeout=TIMEOUT_S,
            trust_env=False,
            follow_redirects=False,
            verify=self.name.startswith("https:"),
        )
        try:
            with self._client.stream("GET", self.name) as response:
                if response.status_code != httpx.codes.OK:
                    raise OSError(f"status {response.status_code}")
                return read(_text(response))
        except httpx.HTTPError as error:
            raise OSError(str(error) or type(error).__name__) from error

    def close(self) -> None:
        """See `Source`."""
        if self._client:
            self._client.close()


def _text(response: httpx.Response) -> str:
    """The whole page. Raises `OSError` for one that is too long."""
    data = bytearray()
    for chunk in response.iter_bytes():
        data += chunk
        if len(data) > _MOST_BYTES:
            raise OSError(f"more than {_MOST_BYTES} bytes")
    return data.decode(errors="replace")


class NvidiaSmi:
    """The GPUs of this machine."""

    name = "nvidia-smi"
    optional = True

    def sample(self) -> dict[Key, float]:
        """See `Source`."""
        try:
            done = subprocess.run(
                _SMI, capture_output=True, text=True, check=True, timeout=5 * TIMEOUT_S
            )
        except subprocess.SubprocessError as error:
            raise OSError(str(error)) from error
        return _of_gpus(done.stdout)

    def close(self) -> None:
        """See `Source`."""


def _of_gpus(text: str) -> dict[Key, float]:
    values: dict[Key, float] = {}
    for line in text.splitlines():
        index, *cells = (cell.strip() for cell in line.split(","))
        for name, cell in zip(_SMI_COLUMNS, cells, strict=False):
            try:
                value = float(cell)
            except ValueError:  # `[N/A]`
                continue
            values[name, (("gpu", index),)] = value * catalog.METRICS[name].factor
    return values


def sources_of(url: str, metrics_urls: Sequence[str], port: int, *, yours: bool) -> list[Source]:
    """What to sample beside a test of the server at `url`: the pages at `metrics_urls`, or else
    Triton's at `port` of the same host where it answers; and `nvidia-smi` where the server is on
    this machine.

    Raises `UsageError` for what is no address, `RefusedError` for a server that may not be asked,
    and `BadInputError` where one of `metrics_urls` does not answer or has no known metric.
    """
    sources: list[Source] = [_required(each, yours) for each in metrics_urls]
    host, _ = endpoint.host_and_port(url)
    if not metrics_urls and (page := _of_triton(host, port, yours)):
        sources.append(page)
    if _is_here(host) and shutil.which(_SMI[0]):
        sources.append(NvidiaSmi())
    return sources


def _required(text: str, yours: bool) -> Source:
    page = Page(_permitted(text, yours), optional=False)
    try:
        values = page.sample()
    except OSError as error:
        raise BadInputError(f"--metrics-url {text}: no metrics are there: {error}") from error
    if not values:
        raise BadInputError(
            f"--metrics-url {text}: has none of the metrics that a load test keeps; its "
            "documentation lists them"
        )
    return page


def _permitted(text: str, yours: bool) -> str:
    """`text` as an address, with the path `/metrics` where it has none."""
    try:
        parts = urlsplit(text)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise UsageError(f"--metrics-url {text!r}: is no address ({error})") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise UsageError(
            f"--metrics-url {text!r}: must be an HTTP address, for example "
            f"http://localhost:{contract.METRICS_PORT.number}/metrics"
        )
    require_permitted(parts.hostname, port, yours=yours)
    return parts._replace(path=parts.path if parts.path.strip("/") else "/metrics").geturl()


def _of_triton(host: str, port: int, yours: bool) -> Source | None:
    shown = f"[{host}]" if ":" in host else host
    try:
        return Page(_permitted(f"http://{shown}:{port}", yours), optional=True)
    except NemoDeployError:  # the test itself says what is wrong with the host
        return None


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
