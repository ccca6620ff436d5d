"""What `evaluate` asks: the OpenAI endpoint of a server, or of a bundle served for the run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..core.bundle import Bundle
from ..core.errors import RefusedError, UsageError
from ..core.progress import Progress
from ..evaluation.endpoint import Endpoint, RefusedRequestError
from ..loadtest import endpoint as addresses
from ..loadtest.permission import require_permitted
from ..runtime import contract
from ..triton_repo.openai import Endpoint as ServedEndpoint
from .serve import chosen_executor, serving
from .trust import open_trusted

PROTOCOLS: Final = ("auto", "chat", "completions")

_PROBES: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "chat": ("/chat/completions", {"messages": [{"role": "user", "content": "1 + 1"}]}),
    "completions": ("/completions", {"prompt": "1 + 1"}),
}
_ECHO: Final = {"prompt": "1 + 1 = 2", "echo": True, "logprobs": 1, "max_tokens": 1}


@dataclass(frozen=True, slots=True)
class EvaluationTarget:
    """A bundle, or the `url` of a server. `protocol` is `auto` where the server shall decide."""

    bundle: Bundle | None
    url: str
    protocol: str

    @classmethod
    def of(
        cls,
        target: str | Path,
        protocol: str,
        *,
        yours: bool,
        verify: str,
        trust_code: bool,
        progress: Progress,
    ) -> EvaluationTarget:
        """Check what can be checked before anything is sent.

        Raises `UsageError` for what is neither, `RefusedError` for a server that is not one's own,
        `CheckFailedError` for a bundle whose code is not to be run.
        """
        if protocol not in PROTOCOLS:
            raise UsageError(f"--protocol {protocol!r}: must be one of {', '.join(PROTOCOLS)}")
        if Path(target).is_dir():
            return cls(open_trusted(Path(target), verify, trust_code, progress), "", protocol)
        url = str(target)
        if not addresses.is_http(url):
            raise UsageError(
                f"{url}: is neither a bundle's directory nor the address of an OpenAI endpoint, "
                "such as http://127.0.0.1:9000/v1"
            )
        address = addresses.parse_http(url)
        require_permitted(*addresses.host_and_port(url), yours=yours, what="an evaluation")
        named = address.protocol if url.rstrip("/").endswith("completions") else ""
        return cls(None, address.base, named if protocol == "auto" and named else protocol)

    @property
    def name(self) -> str:
        """The bundle's name, or the server's address."""
        return self.bundle.name if self.bundle else self.url

    def identity(self, model: str) -> list[str]:
        """What tells its answers from those of another target."""
        if self.bundle is None:
            return [self.url, model]
        return [self.bundle.inputs_digest, chosen_executor(self.bundle, "auto")]

    @contextmanager
    def reached(
        self, model: str | None, concurrency: int, timeout_s: float, progress: Progress
    ) -> Iterator[tuple[Endpoint, bool]]:
        """The endpoint, and whether it is asked in conversations; a bundle is served meanwhile.

        Raises `BadInputError` for a server that has no such endpoint or model.
        """
        if self.bundle is None:
            endpoint = _connected(self.url, model, concurrency, timeout_s)
            yield endpoint, self._chats(endpoint)
            return
        progress.step("start tritonserver")
        served = self.bundle.model_name
        with serving(self.bundle, openai=ServedEndpoint(served), grace=0) as server:
            assert server.openai_url is not None, "an endpoint was asked for"
            endpoint = Endpoint(server.openai_url, served, None, concurrency, timeout_s)
            yield endpoint, self._chats(endpoint)

    def _chats(self, endpoint: Endpoint) -> bool:
        """Whether it is asked in conversations: as chosen, else if it answers one."""
        for name in ["chat", "completions"] if self.protocol == "auto" else [self.protocol]:
            path, body = _PROBES[name]
            try:
                endpoint.ask(path, body | {"max_tokens": 1})
            except RefusedRequestError as error:
                refusal = error
            else:
                return name == "chat"
        raise refusal


def require_log_probabilities(endpoint: Endpoint, task: str) -> None:
    """Raise `RefusedError` where the server gives no log-probabilities of a prompt's tokens."""
    try:
        choice = endpoint.ask("/completions", _ECHO)["choices"][0]
        given = choice["logprobs"]["token_logprobs"]
    except (RefusedRequestError, LookupError, TypeError) as error:
        given, why = [], f" ({error})"
    else:
        why = ""
    if len(given) < 3:
        raise RefusedError(
            f"{task}: compares the log-probabilities of given answers, and {endpoint.url} gives "
            f"none of a prompt's tokens{why}; leave the task out, or use a server that gives them, "
            "such as vLLM's own"
        )


def _connected(url: str, model: str | None, concurrency: int, timeout_s: float) -> Endpoint:
    from .chat_connections import HttpConnection  # which imports tritonclient

    key = os.environ.get(contract.OPENAI_KEY.name)
    found = HttpConnection(url, model, key)
    return Endpoint(f"{url}/v1", found.model, key, concurrency, timeout_s)
