"""The reference executor: transformers on the CPU, from the same quantized checkpoint."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..contract import FIRST_SCHEDULED_TIME, OMP_THREADS
from ..generation import Executor, GenerationRequest, Load, TokenRequest, TokenSink, TokenStep
from ..golden import ASKED, Forced, Scores
from ..scheduler import RoundRobin
from ..vocabulary import CheckpointVocabulary, context_length
from .loading import load_model

if TYPE_CHECKING:
    from .guidance import GuideCompiler, Matcher


class ReferenceExecutor(Executor):
    """Generates on the CPU, one token a turn for each of at most `max_active` requests.

    It serves the decoded weights of the quantized checkpoint, so its tokens are those that
    transformers generates from the same weights. It is slow; the code around it is the same as in
    production.
    """

    def __init__(self, checkpoint: Path, *, max_active: int, max_tokens: int | None = None) -> None:
        if OMP_THREADS.name not in os.environ:
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.vocabulary = CheckpointVocabulary(checkpoint)
        longest = context_length(checkpoint)
        self.context = min(max_tokens or longest, longest)
        model = self._model = load_model(checkpoint)[0]
        self._max_active = max_active
        self._guides = _guide_compiler(self.vocabulary, model.config.vocab_size)
        self._scheduler = RoundRobin(lambda request: generate(model, request), max_active)

    @property
    def can_guide(self) -> bool:
        """Whether llguidance is installed and knows the tokenizer, and the checkpoint says how an
        answer ends."""
        return self._guides is not None

    def compile_guide(self, grammar: str) -> Matcher:
        """A matcher of the grammar."""
        assert self._guides is not None, "only an executor that can guide is asked"
        return self._guides.compile(grammar)

    def submit(self, request: TokenRequest, sink: TokenSink) -> None:
        """Queue a request."""
        self._scheduler.submit(request, sink)

    def score(self, cases: Sequence[Forced]) -> list[Scores]:
        """Log-probabilities of the likeliest tokens at every forced one."""
        return [score(self._model, case) for case in cases]

    @property
    def healthy(self) -> bool:
        """Whether the worker thread runs."""
        return self._scheduler.alive

    @property
    def load(self) -> Load:
        """A sequence has one Mamba state. The KV cache grows as it is needed."""
        running = self._scheduler.running
        return Load(running, mamba_state=running / self._max_active)

    def close(self, timeout: float) -> None:
        """Stop the worker thread, and the process that compiles grammars."""
        if self._guides is not None:
            self._guides.close(timeout / 2)
        self._scheduler.close(timeout / 2)


def _guide_compiler(vocabulary: CheckpointVocabulary, size: int) -> GuideCompiler | None:
    if find_spec("llguidance") is None or not vocabulary.end_tokens:
        return None
    from .guidance import GuideCompiler

    try:
        return GuideCompiler(vocabulary.tokenizer_json, size, min(vocabulary.end_tokens))
    except ValueError:  # a kind of tokenizer that the library does not know
        return None


def generate(model: Any, request: TokenRequest) -> Iterator[TokenStep]:
    """Yield one step for each generated token; the last one has `finish`."""
    scheduled = time.monotonic_ns()
    forward, choose = _Decoder(model), _chooser(request.request)
    guide = _Guided(request.guide, request.end_tokens) if request.guide is not None else None
    tokens, total = torch.tensor([request.prompt]), 0.0
    likely = request.request.logprobs
    for count in range(1, request.max_tokens + 1):
        logits = forward(tokens)
        if guide is not None:
            logits = guide.masked(logits)
        token = choose(logits)
        logprobs = logits.log_softmax(-1)
        total += float(logprobs[token])
        finish = "stop" if token in request.end_tokens else None
        if finish is None and count == request.max_tokens:
            finish = "length"
        yield TokenStep(
            (token,),
            finish,
            total,
            () if likely is None else (_likeliest(logprobs, token, likely),),
            {FIRST_SCHEDULED_TIME.name: scheduled} if count == 1 else {},
        )
        if finish:
            return
        if guide is not None:
            guide.take(token)
        tokens = torch.tensor([[token]])


class _Guided:
    """Keeps the tokens of one answer to its grammar."""

    def __init__(self, guide: object, ends: frozenset[int]) -> None:
        matcher: Any = guide  # what `compile_guide` returned
        self._matcher: Matcher = matcher.copy()
        self._ends = list(ends)

    def masked(self, logits: Tensor) -> Tensor:
        """`logits` [vocabulary] with -inf for every token that must not come next."""
        allowed = torch.frombuffer(bytearray(self._matcher.allowed()), dtype=torch.uint8).bool()
        allowed[self._ends] = allowed[self._matcher.end].item()  # each of them ends an answer
        return logits.masked_fill(~allowed, -torch.inf)

    def take(self, token: int) -> None:
        """Go on by the token that was chosen."""
        self._matcher.take(token)


def _likeliest(logprobs: Tensor, chosen: int, count: int) -> dict[int, float]:
    """The log-probabilities of the `count` likeliest tokens and of the chosen one."""
    top = logprobs.topk(min(count, len(logprobs)))
    likely = dict(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    return likely | {chosen: float(logprobs[chosen])}


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


def _chooser(request: GenerationRequest) -> Callable[[Tensor], int]:
    """A function from logits [vocabulary] to the next token, which remembers what it chose."""
    seen: Counter[int] = Counter()
    warpers = [] if request.greedy else _warpers(request)
    generator = torch.Generator().manual_seed(request.seed or 0)

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
