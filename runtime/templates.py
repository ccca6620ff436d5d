"""Render chat templates in an immutable sandbox, in a child process with limits.

A chat template is a program that comes with a checkpoint. It sees the messages and the special
tokens only, and its time, memory and output are limited.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from .isolation import Limits, Worker, WorkError, serve
from .untrusted import UntrustedError, open_inside, read_json

if TYPE_CHECKING:
    from jinja2 import Template

MAX_TEMPLATE_BYTES: Final = 200_000
"""Longest template; the published ones of this family have about 10 kB."""

MAX_OUTPUT: Final = 1_000_000
"""Longest rendered text, in characters."""

LIMITS: Final = Limits(seconds=2, memory=128 * 2**20)

DEFAULT: Final = "default"
"""Name of the template that is used unless tools ask for the one named `tool_use`."""

SPECIAL_TOKENS: Final = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip
"""Fields of a tokenizer's configuration that a template may name."""


class TemplateError(ValueError):
    """A conversation cannot be rendered: there is no template, or it was refused. Says why."""


class ChatTemplate:
    """The chat template of a checkpoint directory. Use it in a `with`: it may hold a process.

    Read from `chat_template.jinja`, `chat_template.json` or `tokenizer_config.json`, the first one
    that is there, when first needed.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._templates: dict[str, str] | None = None
        self._tokens: dict[str, str] = {}
        self._worker = Worker("nemotron_deploy.runtime.templates", LIMITS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        longest: int | None = None,
    ) -> str:
        """`messages` as text, without a generation prompt; named as in transformers.

        `tools` are passed to the template. With `longest`, the text is cut at so many characters;
        without, one of over `MAX_OUTPUT` is refused. Raises `TemplateError` when there is no
        template, or when it is refused: it reaches for what it may not, fails, or exceeds a limit.
        """
        if self._templates is None:
            self._templates = self._read()
        wanted = "tool_use" if tools and "tool_use" in self._templates else DEFAULT
        request = {
            "template": self._templates[wanted],
            "tokens": self._tokens,
            "messages": messages,
            "tools": tools,
            "longest": longest,
        }
        try:
            return str(self._worker.ask(request))
        except WorkError as error:
            raise TemplateError(f"{self._checkpoint}: chat template: {error}") from error

    def _read(self) -> dict[str, str]:
        """The templates by name, of which one is `DEFAULT`."""
        if find_spec("jinja2") is None:
            raise TemplateError(
                "chat templates need the package jinja2; install it with "
                "pip install 'nemotron-deploy[quantize]'"
            )
        config = self._json("tokenizer_config.json")
        self._tokens = {name: _token(config[name]) for name in SPECIAL_TOKENS if name in config}
        templates = _by_name(self._source(config))
        if DEFAULT not in templates:
            raise TemplateError(
                f"{self._checkpoint}: has no chat template; use `text` or `prompt` instead"
            )
        if any(
            len(text.encode(errors="replace")) > MAX_TEMPLATE_BYTES for text in templates.values()
        ):
            raise TemplateError(
                f"{self._checkpoint}: its chat template is longer than {MAX_TEMPLATE_BYTES} bytes"
            )
        return templates

    def _source(self, config: Mapping[str, Any]) -> object:
        """What is written as the chat template, wherever it is."""
        try:
            with open_inside(self._checkpoint / "chat_template.jinja") as file:
                return file.read(MAX_TEMPLATE_BYTES + 1).decode(errors="replace")
        except FileNotFoundError:
            pass
        except (OSError, UntrustedError) as error:
            raise TemplateError(f"{self._checkpoint}: chat template: {error}") from error
        return self._json("chat_template.json").get("chat_template", config.get("chat_template"))

    def _json(self, name: str) -> dict[str, Any]:
        path = self._checkpoint / name
        try:
            return read_json(path) if path.is_file() else {}
        except UntrustedError as error:
            raise TemplateError(str(error)) from error


def _by_name(source: object) -> dict[str, str]:
    """Templates by name: a text is the default one; older files list several with their names."""
    if isinstance(source, str):
        return {DEFAULT: source}
    rows = source if isinstance(source, list) else []
    return {
        row["name"]: row["template"]
        for row in rows
        if isinstance(row, dict)
        and isinstance(row.get("name"), str)
        and isinstance(row.get("template"), str)
    }


def _token(value: object) -> str:
    """A special token as text: it is written as such, or as an object with `content`."""
    return str(value.get("content", "") if isinstance(value, Mapping) else value or "")


@lru_cache(maxsize=1)
def _compiled(source: str) -> Template:
    from jinja2 import ext, sandbox

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    environment.globals.pop("lipsum", None)
    return environment.from_string(source)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    # Jinja's own filter escapes for HTML, which a model was not trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _render(request: Mapping[str, Any]) -> str:
    """The child's work: one conversation as text."""
    parts, length = [], 0
    longest: int | None = request["longest"]
    pieces = _compiled(request["template"]).generate(
        messages=request["messages"],
        tools=request["tools"],
        add_generation_prompt=False,
        **request["tokens"],
    )
    for piece in pieces:
        parts.append(piece)
        length += len(piece)
        if longest is not None and length >= longest:
            break
        if length > MAX_OUTPUT:
            raise ValueError(f"it wrote more than {MAX_OUTPUT} characters")
    return "".join(parts)[:longest]


if __name__ == "__main__":
    serve(_render)
