"""A served model in the form in which lm-eval asks models. Importing it imports lm-eval."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from lm_eval.api.model import TemplateLM

from ..core.errors import RefusedError
from ..core.progress import Progress
from ..runtime import contract
from ..runtime.chat import THINKING_SWITCH
from .endpoint import Endpoint
from .journal import Journal

CHAT: Final = "/chat/completions"
TEXT: Final = "/completions"

THINKING: Final = "thinking"
"""The generation setting of ours, beside lm-eval's."""

_SEED: Final = 1234
_TASK_DEFAULT_TOKENS: Final = 256
"""lm-eval's limit for a task that sets none."""
_MAX_STOPS: Final = 4
"""Stop texts that OpenAI's API takes."""
_END_OF_THINKING: Final = "</think>"


class Tokenizer(Protocol):
    """What compares log-probabilities of given answers needs of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """The token ids of `text`, without special tokens."""


class ServedModel(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """Answers lm-eval's requests from a journal or, where it has no answer, from an endpoint.

    With `chat`, contexts are conversations. A `tokenizer` is needed only for log-probabilities.
    `cut` counts the answers of each task that reached their limit of tokens; `answered` and `total`
    those of the requests under way.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        journal: Journal,
        progress: Progress,
        *,
        chat: bool,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        super().__init__()
        self.cut: Counter[str] = Counter()
        self.answered = self.total = 0
        self._endpoint, self._journal, self._progress = endpoint, journal, progress
        self._chat, self._tokenizer = chat, tokenizer

    @property
    def tokenizer_name(self) -> str:
        """A name for lm-eval's caches, which are not used."""
        return ""

    @property
    def eot_token_id(self) -> int:
        """The token before a text without a context, which is not supported."""
        raise RefusedError(
            "a task compares texts that have no context, which is not supported; leave it out"
        )

    def tok_encode(self, string: str, **_: Any) -> list[int]:
        """The token ids of a text."""
        assert self._tokenizer is not None, "checked before tasks of log-probabilities are run"
        return self._tokenizer.encode(string)

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as JSON: the server applies the template.

        A beginning of the answer that a task prescribes is left out, since OpenAI's API continues
        no message.
        """
        turns = [dict(turn) for turn in chat_history]
        return json.dumps(turns if add_generation_prompt else turns[:-1], ensure_ascii=False)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The answer to each request, a pair of context and generation settings."""
        times: Counter[str] = Counter()
        bodies = []
        for request in requests:
            context, settings = request.args
            body = (self._conversation if self._chat else self._text)(context, settings)
            key = json.dumps(body, sort_keys=True)
            bodies.append(body | {"seed": _SEED + times[key]})  # repeated questions differ
            times[key] += 1
        path = CHAT if self._chat else TEXT
        answers = self._answers("answer", path, bodies, _generated)
        texts = []
        for request, answer in zip(requests, answers, strict=True):
            self.cut[request.task_name] += answer["finish"] == "length"
            texts.append(_until(answer["text"], request.args[1].get("until")))
        return texts

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """Refused before a run begins: see `requirements`."""
        raise NotImplementedError

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is the likeliest at every token."""
        bodies = [
            {
                "prompt": context + continuation,
                "temperature": 0,
                "max_tokens": 1,
                "logprobs": 1,
                "echo": True,
                "seed": _SEED,
            }
            for _, context, continuation in requests
        ]
        answers = self._answers("compare", TEXT, bodies, _log_probabilities)
        results = []
        for (_, context, continuation), answer in zip(requests, answers, strict=True):
            tokens = slice(len(context), len(context) + len(continuation))
            given, likeliest = answer["given"][tokens], answer["likeliest"][tokens]
            results.append((sum(given), given == likeliest))
        return results

    def _conversation(self, context: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        body = _sampling(settings) | {"messages": json.loads(context)}
        if settings.get("max_gen_toks") is not None:
            body["max_tokens"] = settings["max_gen_toks"]
        if settings.get(THINKING) is False:
            body[contract.TEMPLATE_ARGUMENTS.name] = {THINKING_SWITCH: False}
        return body

    def _text(self, context: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        stop = _stops(settings.get("until"))[:_MAX_STOPS]
        return (
            _sampling(settings)
            | {"prompt": context, "max_tokens": settings.get("max_gen_toks", _TASK_DEFAULT_TOKENS)}
            | ({"stop": stop} if stop else {})
        )

    def _answers(
        self, step: str, path: str, bodies: Sequence[dict[str, Any]], read: Any
    ) -> Iterator[dict[str, Any]]:
        """What `read` takes from each answer, in the order of `bodies`."""
        requests = [{"path": path} | body for body in bodies]
        missing = [number for number, row in enumerate(requests) if self._journal.get(row) is None]
        self.total, self.answered = len(bodies), len(bodies) - len(missing)
        kept = f" ({self.answered:,} of {self.total:,} are kept)" if self.answered else ""
        advance = self._progress.step(f"{step}{kept}", len(missing), "questions")
        begun = self.answered

        def keep(number: int, answer: dict[str, Any]) -> None:
            self._journal.add(requests[missing[number]], read(answer))
            self.answered += 1
            advance(self.answered - begun)

        self._endpoint.ask_all(path, [bodies[number] for number in missing], keep)
        return (self._journal.get(row) for row in requests)


def _sampling(settings: Mapping[str, Any]) -> dict[str, Any]:
    sampled = {"temperature": settings.get("temperature", 0)}
    return sampled | ({"top_p": settings["top_p"]} if "top_p" in settings else {})


def _generated(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Text and reason of the end of an answer. What a server leaves of the reasoning is cut off."""
    choice = answer["choices"][0]
    if "message" in choice:
        text = (choice["message"]["content"] or "").rpartition(_END_OF_THINKING)[2].lstrip("\n")
    else:
        text = choice["text"]
    return {"text": text, "finish": choice.get("finish_reason")}


def _log_probabilities(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Log-probability of each token of the prompt, and that of the likeliest one in its place."""
    columns = answer["choices"][0]["logprobs"]
    likeliest = [max(row.values()) if row else None for row in columns["top_logprobs"]]
    return {"given": columns["token_logprobs"], "likeliest": likeliest}


def _stops(until: str | Sequence[str] | None) -> list[str]:
    return [until] if isinstance(until, str) else [text for text in until or () if text]


def _until(text: str, until: str | Sequence[str] | None) -> str:
    """`text` up to the first stop text. In a conversation the server is sent none: some servers
    would end the reasoning at it."""
    for stop in _stops(until):
        text = text.partition(stop)[0]
    return text
