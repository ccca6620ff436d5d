"""The reference executor: transformers on the CPU, from the same quantized checkpoint."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..contract import FIRST_SCHEDULED_TIME, MAX_TOKENS, OMP_THREADS
from ..generation import Executor, GenerationRequest, RequestError, Sink, Step
from ..golden import ASKED, Forced, Scores, Tokens
from ..scheduler import RoundRobin
from ..text import Detokenizer, StopWords
from .loading import load_model


class ReferenceExecutor(Executor):
    """Generates on the CPU, one token a turn for each of at most `max_active` requests.

    It serves the decoded weights of the quantized checkpoint, so its tokens are those that
    transformers generates from the same weights. It is slow; the code around it is the same as in
    production.
    """

    def __init__(self, checkpoint: Path, *, max_active: int, max_tokens: int | None = None) -> None:
        if OMP_THREADS.name not in os.environ:
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        model, tokenizer = load_model(checkpoint)
        self._model, self._tokenizer = model, tokenizer
        limit = min(max_tokens or 2**31, model.config.max_position_embeddings)
        self._scheduler = RoundRobin(
            lambda request: generate(model, tokenizer, request, limit), max_active
        )

    def submit(self, request: GenerationRequest, sink: Sink) -> None:
        """Queue a request."""
        self._scheduler.submit(request, sink)

    def tokens(self, text: str) -> Tokens:
        """The token numbers of a prompt."""
        return tuple(self._tokenizer(text).input_ids)

    def score(self, cases: Sequence[Forced]) -> list[Scores]:
        """Log-probabilities of the likeliest tokens at every forced one."""
        return [score(self._model, case) for case in cases]

    @property
    def healthy(self) -> bool:
        """Whether the worker thread runs."""
        return self._scheduler.alive

    def close(self, timeout: float) -> None:
        """Stop the worker thread."""
        self._scheduler.close(timeout)


def generate(model: Any, tokenizer: Any, request: GenerationRequest, limit: int) -> Iterator[Step]:
    """Yield one `Step` per generated token; the last one has `finish`.

    `limit` bounds prompt and answer together, in tokens. Raises `RequestError` beyond it.
    """
    scheduled = time.monotonic_ns()
    prompt = tokenizer(request.prompt, return_tensors="pt").input_ids
    length = prompt.shape[1]
    if length == 0 or length + request.max_tokens > limit:
        raise RequestError(
            f"the prompt has {length} tokens and {MAX_TOKENS.name} is "
            f"{request.max_tokens}; at least one and together at most {limit} are possible"
        )
    forward, choose, ends = _Decoder(model), _chooser(request), _end_tokens(model)
    detokenizer, stops = Detokenizer(tokenizer.backend_tokenizer), StopWords(request.stop)
    tokens, total = prompt, 0.0
    for count in range(1, request.max_tokens + 1):
        logits = forward(tokens)
        token = choose(logits)
        total += float(logits.log_softmax(-1)[token])
        text, stop = stops.push("" if token in ends else detokenizer.push(token))
        finish = "stop" if token in ends or stop else None
        if finish is None and count == request.max_tokens:
            finish = "length"
        if finish is None:
            yield Step(text, cumulative_logprob=total)
            tokens = torch.tensor([[token]])
            continue
        if stop is None:
            text += stops.flush()
        yield Step(text, finish, stop or "", total, {FIRST_SCHEDULED_TIME.name: scheduled})
        return


def score(model: Any, case: Forced, count: int = ASKED) -> Scores:
    """The `count` likeliest tokens' log-probabilities at every forced token, in one pass."""
    tokens = torch.tensor([case.prompt + case.forced[:-1]], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=tokens, use_cache=False).logits[0, len(case.prompt) - 1 :]
    top = logits.float().log_softmax(-1).topk(min(count, logits.shape[-1]))
    return [
        dict(zip(numbers, values, strict=True))
        for numbers, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]


class _Decoder:
    """A model and the cache of one sequence: feed it tokens [1, n], get the next token's logits."""

    def __init__(self, model: Any) -> None:
        from transformers.cache_utils import DynamicCache

        self._model = model
        self._cache = DynamicCache(config=model.config)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits [vocabulary], float32, after all tokens fed so far."""
        with torch.inference_mode():
            output = self._model(
                input_ids=tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1
            )
        logits: Tensor = output.logits[0, -1].float()
        return logits


def _end_tokens(model: Any) -> frozenset[int]:
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = model.config.eos_token_id
    return frozenset([ends] if isinstance(ends, int) else ends or [])


def _chooser(request: GenerationRequest) -> Callable[[Tensor], int]:
    """A function from logits [vocabulary] to the next token, which remembers what it chose."""
    seen: Counter[int] = Counter()
    warpers = [] if request.greedy else _warpers(request)
    generator = torch.Generator().manual_seed(request.seed)

    def choose(logits: Tensor) -> int:
        scores = _penalize(logits, seen, request)
        if request.greedy:
            token = int(scores.argmax())
        else:
            batch = scores.unsqueeze(0)
            for warp in warpers:
                batch = warp(None, batch)
            token = int(torch.multinomial(batch[0].softmax(-1), 1, generator=generator))
        seen[token] += 1
        return token

    return choose


def _warpers(request: GenerationRequest) -> list[Any]:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    warpers: list[Any] = []
    if request.temperature is not None:
        warpers.append(TemperatureLogitsWarper(request.temperature))
    if request.top_k:
        warpers.append(TopKLogitsWarper(request.top_k))
    if request.top_p is not None:
        warpers.append(TopPLogitsWarper(request.top_p))
    return warpers


def _penalize(logits: Tensor, seen: Counter[int], request: GenerationRequest) -> Tensor:
    """Lower the logits of generated tokens, once by presence and each time by frequency."""
    if not seen or not (request.frequency_penalty or request.presence_penalty):
        return logits
    scores = logits.clone()
    for token, count in seen.items():
        scores[token] -= request.frequency_penalty * count + request.presence_penalty
    return scores
