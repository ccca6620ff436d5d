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

SPECIAL_TOKENS: Final = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip
"""Fields of a tokenizer's configuration that a template may name."""


class TemplateError(ValueError):
    """A conversation cannot be rendered: there is no template, or it was refused. Says why."""


class ChatTemplate:
    """The chat template of a checkpoint directory. Use it in a `with`: it may hold a process.

    Read from `chat_template.jinja`, or else from `tokenizer_config.json`, when first needed.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._request: dict[str, Any] | None = None
        self._worker = Worker("nemotron_deploy.runtime.templates", LIMITS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """`messages` as text, without a generation prompt; named as in transformers.

        Raises `TemplateError` when there is no template, or when it is refused: it reaches for what
        it may not, fails, or runs past a limit.
        """
        self._request = self._request or self._read()
        try:
            return str(self._worker.ask(self._request | {"messages": messages}))
        except WorkError as error:
            raise TemplateError(f"{self._checkpoint}: chat template: {error}") from error

    def _read(self) -> dict[str, Any]:
        if find_spec("jinja2") is None:
            raise TemplateError(
                "chat templates need the package jinja2; install it with "
                "pip install 'nemotron-deploy[quantize]'"
            )
        path = self._checkpoint / "tokenizer_config.json"
        try:
            config = read_json(path) if path.is_file() else {}
        except UntrustedError as error:
            raise TemplateError(str(error)) from error
        template = self._source(config)
        if len(template.encode(errors="replace")) > MAX_TEMPLATE_BYTES:
            raise TemplateError(
                f"{self._checkpoint}: its chat template is longer than {MAX_TEMPLATE_BYTES} bytes"
            )
        tokens = {name: _token(config[name]) for name in SPECIAL_TOKENS if name in config}
        return {"template": template, "tokens": tokens}

    def _source(self, config: Mapping[str, Any]) -> str:
        try:
            with open_inside(self._checkpoint / "chat_template.jinja") as file:
                return file.read(MAX_TEMPLATE_BYTES + 1).decode(errors="replace")
        except FileNotFoundError:
            pass
        except (OSError, UntrustedError) as error:
            raise TemplateError(f"{self._checkpoint}: chat template: {error}") from error
        template = config.get("chat_template")
        if not isinstance(template, str):
            raise TemplateError(
                f"{self._checkpoint}: has no chat template; use `text` or `prompt` instead"
            )
        return template


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
    template = _compiled(request["template"])
    for part in template.generate(
        messages=request["messages"], add_generation_prompt=False, **request["tokens"]
    ):
        length += len(part)
        if length > MAX_OUTPUT:
            raise ValueError(f"it wrote more than {MAX_OUTPUT} characters")
        parts.append(part)
    return "".join(parts)


if __name__ == "__main__":
    serve(_render)
