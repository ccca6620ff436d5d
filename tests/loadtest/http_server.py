"""A FAKE HTTP server: speaks OpenAI's streaming protocol and Triton's `generate_stream`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from nemotron_deploy.tests.fake_http import FakeServer, JsonHandler
from nemotron_deploy.tests.loadtest.conftest import INPUTS


@dataclass
class FakeHttp:
    """FAKE. Forms: OpenAI's API reference, "Streaming"; Triton's protocol extension
    `generate` (triton-inference-server/server, docs/protocol/extension_generate.md).

    A prompt is a JSON object: `texts` and `reasoning` (an event each, reasoning first), `tokens`
    (what the server counts), `status` (an error instead), `error` (an event at the end), `cut` (the
    connection ends before the last chunk), `unended` (no `[DONE]`), `garbage` (an event that is no
    JSON), `type` (another content type), `refuse` (closes the connection without an answer),
    `after` (an event after the last).
    """

    models: tuple[str, ...] = ("mock",)
    openai: bool = True
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    server: Any = None

    @property
    def url(self) -> str:
        url: str = self.server.url
        return url

    def start(self) -> None:
        self.server = FakeServer(_Handler, self)

    def stop(self) -> None:
        self.server.stop()


class _Handler(JsonHandler, BaseHTTPRequestHandler):
    settings: FakeHttp

    def do_GET(self) -> None:
        if self.path == "/v1/models" and self.settings.openai:
            self._json(200, {"data": [{"id": name} for name in self.settings.models]})
        elif self.path == "/v2/health/live" and not self.settings.openai:
            self._json(200, {})
        elif self.path.endswith("/config"):
            self._json(
                200,
                {
                    "input": [{"name": name} for name in INPUTS],
                    "output": [{"name": "text_output"}],
                    "model_transaction_policy": {"decoupled": True},
                },
            )
        else:
            self._json(404, {"error": "not here"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or "{}")
        if self.path == "/v2/repository/index" and not self.settings.openai:
            rows = [{"name": name, "state": "READY"} for name in self.settings.models]
            self._json(200, rows)
            return
        if not self.path.endswith(("/completions", "/generate_stream")):
            self._json(404, {"error": "not here"})
            return
        self.settings.bodies.append(body)
        self.settings.paths.append(self.path)
        self.settings.headers.append({name.lower(): value for name, value in self.headers.items()})
        options = self._options(body)
        if options.get("refuse"):
            self.close_connection = True
        elif "status" in options:
            self._json(options["status"], {"error": {"message": options.get("error", "no")}})
        else:
            self._stream(options)

    def _options(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = body.get("prompt") or body.get("text_input") or body["messages"][-1]["content"]
        try:
            options = json.loads(prompt)
        except ValueError:
            return {}
        return options if isinstance(options, dict) else {}

    def _stream(self, options: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", options.get("type", "text/event-stream"))
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for kind in ("reasoning", "texts"):
            for text in options.get(kind, ["a", "b"] if kind == "texts" else []):
                self._event(self._piece(kind, text))
        if "garbage" in options:
            self._chunk(f"data: {options['garbage']}\n\n")
        if "error" in options:
            error = options["error"]
            self._event({"error": {"message": error} if self.settings.openai else error})
        if options.get("cut"):
            self.close_connection = True
            return
        if "tokens" in options:
            self._event(self._usage(options["tokens"]))
        if self.settings.openai and not options.get("unended"):
            self._chunk("data: [DONE]\n\n")
        if options.get("after"):
            self._event(self._piece("texts", "more"))
        self.wfile.write(b"0\r\n\r\n")

    def _piece(self, kind: str, text: str) -> dict[str, Any]:
        if not self.settings.openai:
            return {"reasoning_content" if kind == "reasoning" else "text_output": text}
        if self.path == "/v1/completions":
            return {"choices": [{"text": text}]}
        name = "reasoning_content" if kind == "reasoning" else "content"
        return {"choices": [{"delta": {name: text}}]}

    def _usage(self, tokens: int) -> dict[str, Any]:
        if not self.settings.openai:
            return {"text_output": "", "num_output_tokens": tokens, "num_input_tokens": 7}
        return {"choices": [], "usage": {"completion_tokens": tokens, "prompt_tokens": 7}}

    def _event(self, event: dict[str, Any]) -> None:
        self._chunk(f"data: {json.dumps(event)}\n\n")

    def _chunk(self, text: str) -> None:
        self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())
        self.wfile.flush()
