"""The two ways of `chat` to a served model: an OpenAI endpoint, and Triton's gRPC port."""

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ..core.errors import BadInputError
from ..loadtest import endpoint
from ..runtime import contract
from ..runtime.openai.errors import ApiError
from ..runtime.openai.request import read_request
from ..runtime.openai.upstream import CHANNEL_OPTIONS, failure, model_request, read_piece
from .chat import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S, Delta

_START: Final = "start one with nemo-deploy serve"


class HttpConnection:
    """An OpenAI endpoint at `url`, with or without `/v1`; `key` is its API key.

    Raises `BadInputError` if no such endpoint answers, or it has no such model.
    """

    def __init__(self, url: str, model: str | None, key: str | None) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._parts = urlsplit(self._url)
        self._headers = {"content-type": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"
        connection, response = self._send("GET", "/v1/models")
        try:
            names = [row["id"] for row in json.load(response)["data"]]
        except (ValueError, LookupError, TypeError) as error:
            raise BadInputError(f"{url}: is no OpenAI endpoint (no list of models)") from error
        finally:
            connection.close()
        self.model = _chosen(names, model, url)

    def stream(self, body: Mapping[str, Any]) -> Iterator[Delta]:
        """See `chat.Connection`."""
        data = json.dumps(body).encode()
        connection, response = self._send("POST", "/v1/chat/completions", data)
        try:
            for line in response:
                if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
                    continue
                event = json.loads(line[len(b"data: ") :])
                if "error" in event:
                    raise BadInputError(f"{self._url}: {event['error'].get('message')}")
                yield _delta(event)
        except (OSError, http.client.HTTPException) as error:
            raise BadInputError(f"{self._url}: the connection was lost ({error})") from error
        finally:
            connection.close()

    def _send(
        self, method: str, path: str, data: bytes | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        parts = self._parts
        https = parts.scheme.lower() == "https"
        kind = http.client.HTTPSConnection if https else http.client.HTTPConnection
        try:
            connection = kind(parts.hostname or "", parts.port, timeout=CONNECT_TIMEOUT_S)
            connection.connect()
            connection.sock.settimeout(ANSWER_TIMEOUT_S)
            connection.request(method, parts.path + path, data, self._headers)
            response = connection.getresponse()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise BadInputError(f"{self._url}: no server answers ({error}); {_START}") from error
        if response.status == 200:
            return connection, response
        said = _said(response)
        connection.close()
        raise BadInputError(f"{self._url}: {said}")


def _said(response: http.client.HTTPResponse) -> str:
    """What an endpoint says to a request that it does not answer."""
    if response.status == 401:
        return f"the endpoint needs an API key; set {contract.OPENAI_KEY.name}"
    try:
        return str(json.load(response)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return f"is no OpenAI endpoint (HTTP status {response.status})"


def _delta(event: Mapping[str, Any]) -> Delta:
    tokens = (event.get("usage") or {}).get("completion_tokens")
    if not event.get("choices"):
        return Delta(tokens=tokens)
    choice = event["choices"][0]
    delta = choice["delta"]
    return Delta(
        text=delta.get("content") or "",
        reasoning=delta.get(contract.REASONING_CONTENT.name) or delta.get("reasoning") or "",
        calls=delta.get(contract.TOOL_CALLS.name) or (),
        finish=choice.get("finish_reason"),
        tokens=tokens,
    )


class GrpcConnection:
    """A Triton server at `url`, `grpc://host:port`.

    Raises `UsageError` for another form, `BadInputError` if no server answers, or it has no such
    model or one that takes no conversations.
    """

    def __init__(self, url: str, model: str | None) -> None:
        self._url = url
        channel = grpc.insecure_channel(endpoint.parse(url), options=CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        index = self._call("RepositoryIndex", service_pb2.RepositoryIndexRequest(ready=True))
        self.model = _chosen([row.name for row in index.models], model, url)
        described = self._call("ModelMetadata", service_pb2.ModelMetadataRequest(name=self.model))
        if contract.MESSAGES.name not in {tensor.name for tensor in described.inputs}:
            raise BadInputError(
                f"{url}: the model {self.model} takes no conversations: it has no input "
                f"{contract.MESSAGES.name}"
            )

    def stream(self, body: Mapping[str, Any]) -> Iterator[Delta]:
        """See `chat.Connection`."""
        try:
            request = read_request(json.dumps(body).encode(), self.model, chat=True)
        except ApiError as error:
            raise BadInputError(error.message) from error
        name = f"chat-{secrets.token_hex(16)}"
        message = model_request(self.model, request.generations[0], name)
        call = self._stub.ModelStreamInfer(iter([message]))
        try:
            for answer in call:
                if answer.error_message:
                    raise BadInputError(f"{self._url}: {failure(answer.error_message).message}")
                if answer.infer_response.outputs:
                    piece = read_piece(answer.infer_response)
                    tokens = piece.usage.answer if piece.usage else None
                    yield Delta(piece.text, piece.reasoning, piece.calls, piece.finish, tokens)
        except grpc.RpcError as error:
            raise self._lost(error) from error
        finally:
            call.cancel()

    def _call(self, method: str, request: Any) -> Any:
        try:
            return getattr(self._stub, method)(request, timeout=CONNECT_TIMEOUT_S)
        except grpc.RpcError as error:
            raise self._lost(error) from error

    def _lost(self, error: Any) -> BadInputError:
        details = " ".join(str(error.details()).split())
        return BadInputError(f"{self._url}: no server answers ({details}); {_START}")


def _chosen(names: list[str], model: str | None, url: str) -> str:
    """The model `model`, or the only one of `names`."""
    if model is not None and model not in names:
        raise BadInputError(f"{url}: has no model {model!r}; it has {', '.join(names) or 'none'}")
    if model is None and len(names) != 1:
        raise BadInputError(
            f"{url}: has {len(names)} models ({', '.join(names) or 'none'}); name one with --model"
        )
    return model or names[0]
