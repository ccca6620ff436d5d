"""Requests to prompts: chat templates, tokens, and whether they fit into the context.

Sizes in bytes are checked before anything is read; templates and tokenizers run in threads of their
own, so that a long prompt does not keep the tokens of other requests waiting.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from . import contract
from .answers import Start, start_after
from .chat import THINKING_SWITCH, Conversation
from .errors import RequestError
from .generation import GenerationRequest
from .golden import Tokens
from .stage import CLOSING, Prepared
from .templates import ChatTemplate, TemplateError
from .vocabulary import CheckpointVocabulary, SamplingDefaults, TooManyTokensError

BYTES_A_TOKEN: Final = 16
"""A prompt with more bytes a token than this is no text: English has 4 to 5, indented code 8."""

MAX_PROMPT_BYTES: Final = 8 * 2**20
"""The limit of a prompt in bytes, whatever the context is."""


def prompt_limit(context: int) -> int:
    """How many bytes a prompt may have in a context of so many tokens."""
    return min(MAX_PROMPT_BYTES, context * BYTES_A_TOKEN)


class Prompts:
    """Makes prompts for the model in the directory `checkpoint`. Thread-safe.

    `context` is how many tokens a prompt and its answer may have together.
    """

    def __init__(
        self,
        checkpoint: Path,
        vocabulary: CheckpointVocabulary,
        defaults: SamplingDefaults,
        context: int,
    ) -> None:
        self._vocabulary = vocabulary
        self._defaults = defaults
        self._context = context
        texts = sorted(vocabulary.control_texts, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, texts)) or "(?!)")
        self._template = ChatTemplate(checkpoint)
        self._rendering = threading.Lock()

    def close(self, timeout: float) -> None:
        """End the process that renders templates, unless it is busy for `timeout` seconds."""
        if self._rendering.acquire(timeout=timeout):
            self._template.close()
            self._rendering.release()

    def prepare(self, request: GenerationRequest) -> Prepared:
        """The prompt of a request. Raises `RequestError`."""
        try:
            return self._prepared(request)
        except TooManyTokensError as error:
            raise self._too_long(error.count, request.max_tokens) from error

    def _prepared(self, request: GenerationRequest) -> Prepared:
        start, schemas = Start.RAW, {}
        if request.conversation is not None:
            text, prompt = self._render(request.conversation)
            start = _start(text, request.conversation)
            schemas = dict(request.conversation.schemas)
        elif request.input_ids is not None:
            self._require_known(request.input_ids)
            prompt = request.input_ids
            text = self._vocabulary.decode(prompt)
        else:
            text = request.prompt
            prompt = self._vocabulary.encode(text, most=self._context)
        closing: Tokens = ()
        if request.thinking_budget is not None:
            closing = self._vocabulary.encode(CLOSING, whole=False)
        return Prepared(
            replace(
                self._defaults.applied(request),
                seed=secrets.randbits(63) if request.seed is None else request.seed,
            ),
            text,
            prompt,
            self._answer_tokens(len(prompt), request.max_tokens),
            start,
            schemas,
            closing,
        )

    def _answer_tokens(self, length: int, asked: int | None) -> int:
        """How many tokens the answer to a prompt of `length` tokens may have."""
        if length == 0:
            raise RequestError("the prompt has no tokens")
        left = self._context - length
        if asked is None and left > 0:
            return left
        if asked is None or asked > left:
            raise self._too_long(length, asked)
        return asked

    def _too_long(self, length: int, asked: int | None) -> RequestError:
        wanted = "" if asked is None else f" and {contract.MAX_TOKENS.name} is {asked}"
        return RequestError(
            f"the prompt has {length} tokens{wanted}; with at least one token for the answer, "
            f"together at most {self._context} are possible"
        )

    def _require_known(self, tokens: Tokens) -> None:
        size = self._vocabulary.size
        unknown = next((token for token in tokens if not 0 <= token < size), None)
        if unknown is not None:
            raise RequestError(
                f"{contract.INPUT_IDS.name} holds {unknown}; token numbers are 0 to {size - 1}"
            )

    def _render(self, conversation: Conversation) -> tuple[str, Tokens]:
        """The prompt of a conversation as text and as tokens.

        What a client writes is text: where it holds the text of a control token (`<|im_end|>`), it
        is rendered with a placeholder for it, which is tokenized as ordinary text. So no client can
        end its own turn and write another one.
        """
        literals = _Literals(self._control)
        try:
            with self._rendering:
                rendered = self._template.apply_chat_template(
                    literals.hidden(conversation.messages),
                    literals.hidden(conversation.tools) or None,
                    most=prompt_limit(self._context),
                    generation_prompt=True,
                    arguments=literals.hidden(conversation.template_arguments),
                    ignored=(THINKING_SWITCH,),
                )
        except TemplateError as error:
            raise RequestError(error.reason) from error
        parts = literals.parts(rendered)
        tokens: list[int] = []
        for text, literal in parts:
            tokens += self._vocabulary.encode(
                text, whole=False, control=not literal, most=self._context
            )
        return "".join(text for text, _ in parts), tuple(tokens)


def _start(prompt: str, conversation: Conversation) -> Start:
    """Where the answer begins: the prompt's end says it, or the switch where the template has no
    markers of reasoning."""
    start = start_after(prompt)
    switch = conversation.template_arguments.get(THINKING_SWITCH)
    if start is Start.OPEN and switch is not None:
        return Start.REASONING if switch else Start.CONTENT
    return start


class _Literals:
    """Placeholders for the texts that `pattern` finds in what a client wrote."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern
        self._texts: list[str] = []
        self._nonce = secrets.token_hex(8)
        self._placeholder = re.compile(f"x{self._nonce}x([0-9]+)x")

    def hidden(self, value: Any) -> Any:
        """A JSON value with placeholders in its texts."""
        if isinstance(value, str):
            return self._pattern.sub(self._hide, value)
        if isinstance(value, Mapping):
            return {self.hidden(key): self.hidden(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.hidden(item) for item in value]
        return value

    def _hide(self, match: re.Match[str]) -> str:
        self._texts.append(match[0])
        return f"x{self._nonce}x{len(self._texts) - 1}x"

    def parts(self, rendered: str) -> list[tuple[str, bool]]:
        """A rendered text in parts, each with whether it is one of the texts."""
        parts = []
        for number, part in enumerate(self._placeholder.split(rendered)):
            literal = number % 2 == 1
            parts.append((self._texts[int(part)] if literal else part, literal))
        return [part for part in parts if part[0]]
