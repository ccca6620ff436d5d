"""Render chat templates in an immutable sandbox, in a child process with limits.

A chat template is a program that comes with a checkpoint. It sees the messages and the special
tokens only, and its time, memory and output are limited.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from .isolation import Limits, Worker, WorkError, serve
from .untrusted import UntrustedError, open_inside, read_json

if TYPE_CHECKING:
    from jinja2 import Environment, Template

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
    """A conversation cannot be rendered: there is no template, or it was refused. Says why.

    `reason` says it without naming files, for those who sent the conversation.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ChatTemplate:
    """The chat template of a checkpoint directory. Use it in a `with`: it may hold a process.

    Read from `chat_template.jinja`, `chat_template.json` or `tokenizer_config.json`, the first one
    that is there, when first needed.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._templates: dict[str, str] | None = None
        self._tokens: dict[str, str] = {}
        self._variables: dict[str, frozenset[str]] = {}
        self._worker = Worker(__name__, LIMITS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process that renders."""
        self._worker.close()

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        longest: int | None = None,
        *,
        most: int = MAX_OUTPUT,
        generation_prompt: bool = False,
        arguments: Mapping[str, Any] | None = None,
        ignored: Collection[str] = (),
    ) -> str:
        """`messages` as text; named as in transformers.

        `tools` and `arguments` are passed to the template, and `generation_prompt` asks it for the
        beginning of an answer. An argument that the template does not use is refused, unless it is
        one of `ignored`. With `longest`, the text is cut at so many characters; without, one of
        over `most` is refused. Raises `TemplateError` when there is no template, or when it is
        refused: it reaches for what it may not, fails, or exceeds a limit.
        """
        if self._templates is None:
            self._templates = self._read()
        name = "tool_use" if tools and "tool_use" in self._templates else DEFAULT
        template = self._templates[name]
        arguments = arguments or {}
        if unknown := sorted(set(arguments) - set(ignored)):
            unknown = sorted(set(unknown) - self._used(name))
        if unknown:
            raise self._refused(f"it has no variable {unknown[0]!r}")
        return str(
            self._ask(
                {
                    "template": template,
                    "variables": {**arguments, **self._tokens},
                    "messages": messages,
                    "tools": tools,
                    "longest": longest,
                    "most": most,
                    "add_generation_prompt": generation_prompt,
                }
            )
        )

    def _used(self, name: str) -> frozenset[str]:
        """The variables that the template `name` reads."""
        assert self._templates is not None, "templates are read first"
        if name not in self._variables:
            self._variables[name] = frozenset(self._ask({"parse": self._templates[name]}))
        return self._variables[name]

    def _ask(self, request: Mapping[str, Any]) -> Any:
        try:
            return self._worker.ask(request)
        except WorkError as error:
            raise self._refused(str(error)) from error

    def _refused(self, why: str) -> TemplateError:
        reason = f"chat template: {why}"
        return TemplateError(f"{self._checkpoint}: {reason}", reason)

    def _read(self) -> dict[str, str]:
        """The templates by name, of which one is `DEFAULT`."""
        if find_spec("jinja2") is None:
            missing = (
                "chat templates need the package jinja2; install it with "
                "pip install 'nemotron-deploy[quantize]'"
            )
            raise TemplateError(missing, missing)
        config = self._json("tokenizer_config.json")
        self._tokens = {name: _token(config[name]) for name in SPECIAL_TOKENS if name in config}
        templates = _by_name(self._source(config))
        if DEFAULT not in templates:
            raise TemplateError(
                f"{self._checkpoint}: has no chat template; use `text` or `prompt` instead",
                "this model has no chat template; send a prompt as text instead",
            )
        if any(
            len(text.encode(errors="replace")) > MAX_TEMPLATE_BYTES for text in templates.values()
        ):
            too_long = f"its chat template is longer than {MAX_TEMPLATE_BYTES} bytes"
            raise TemplateError(f"{self._checkpoint}: {too_long}", too_long)
        return templates

    def _source(self, config: Mapping[str, Any]) -> object:
        """What is written as the chat template, wherever it is."""
        try:
            with open_inside(self._checkpoint / "chat_template.jinja") as file:
                return file.read(MAX_TEMPLATE_BYTES + 1).decode(errors="replace")
        except FileNotFoundError:
            pass
        except (OSError, UntrustedError) as error:
            raise self._refused(str(error)) from error
        return self._json("chat_template.json").get("chat_template", config.get("chat_template"))

    def _json(self, name: str) -> dict[str, Any]:
        path = self._checkpoint / name
        try:
            return read_json(path) if path.is_file() else {}
        except UntrustedError as error:
            raise TemplateError(str(error), f"{name} of this model cannot be read") from error


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


def _environment() -> Environment:
    from jinja2 import ext, sandbox

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    environment.globals.pop("lipsum", None)
    return environment


@lru_cache(maxsize=1)
def _compiled(source: str) -> Template:
    return _environment().from_string(source)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    # Jinja's own filter escapes for HTML, which a model was not trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _work(request: Mapping[str, Any]) -> Any:
    """The child's work: the variables of a template, or one conversation as text."""
    if "parse" in request:
        from jinja2 import meta

        environment = _environment()
        return sorted(meta.find_undeclared_variables(environment.parse(request["parse"])))
    return _rendered(request)


def _rendered(request: Mapping[str, Any]) -> str:
    parts, length = [], 0
    longest: int | None = request["longest"]
    fixed = {name: request[name] for name in ("messages", "tools", "add_generation_prompt")}
    for piece in _compiled(request["template"]).generate(**{**request["variables"], **fixed}):
        parts.append(piece)
        length += len(piece)
        if longest is not None and length >= longest:
            break
        if length > request["most"]:
            raise ValueError(f"it wrote more than {request['most']} characters")
    return "".join(parts)[:longest]


if __name__ == "__main__":
    serve(_work)
