"""The text stage: between the tokens of an executor and the answer of a request.

It detokenizes, splits reasoning, content and tool calls, ends the answer at a stop text, ends the
reasoning at its budget, and counts. All of this is the same for every executor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from .answers import THINK_END, AnswerParser, Call, Content, Event, Reasoning, Start
from .arguments import Schema
from .generation import (
    Failure,
    GenerationRequest,
    Sink,
    Step,
    TokenLogprob,
    TokenRequest,
    TokenSink,
    TokenStep,
    Usage,
    Vocabulary,
)
from .golden import Tokens
from .text import StopWords

CLOSING: Final = f"\n{THINK_END}\n\n"
"""What ends a reasoning at its budget, in the form in which this family ends one."""

Submit = Callable[[TokenRequest, TokenSink], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request whose prompt is made: as text, and as tokens. `start` says where the answer begins,
    `schemas` what it may call, and `closing` are the tokens of `CLOSING`. `guide` is the executor's
    guide of the whole answer, and `content_guide` that of what follows a closed reasoning."""

    request: GenerationRequest
    text: str
    prompt: Tokens
    max_tokens: int
    start: Start = Start.RAW
    schemas: Mapping[str, Schema] = field(default_factory=dict)
    closing: Tokens = ()
    guide: object | None = None
    content_guide: object | None = None


class TextStage:
    """Generates the answer to one request through `submit`, and sends it to `sink` in steps.

    A reasoning that reaches its budget is closed by abandoning the generation and starting another
    one, whose prompt ends with the reasoning and `CLOSING`. So the prompt is processed again.
    """

    def __init__(
        self, prepared: Prepared, vocabulary: Vocabulary, submit: Submit, sink: Sink
    ) -> None:
        request = prepared.request
        self._prepared = prepared
        self._vocabulary = vocabulary
        self._submit = submit
        self._sink = sink
        self._ends = frozenset[int]() if request.ignore_eos else vocabulary.end_tokens
        guided = request.guide is not None
        self._parser = AnswerParser(prepared.start, prepared.schemas, guided=guided)
        self._stops = StopWords(request.stop)
        self._detokenizer = vocabulary.detokenizer()
        self._budget = request.thinking_budget
        self._generated: list[int] = []
        self._count = self._sent = self._reasoning_count = 0
        self._logprob: float | None = None
        self._earlier_logprob = 0.0
        self._run = _Run(self, sink)

    def start(self) -> None:
        """Submit the request."""
        if not self._over_budget():
            self._generate()
            return
        self._close_reasoning([])
        if self._spent():
            self._send([], TokenStep(()), "length")
        else:
            self._generate()

    def take(self, step: TokenStep) -> None:
        """Turn the tokens of a step into a step of the answer."""
        run, events, finish, stop = self._run, list[Event](), step.finish, ""
        taken = 0
        for token in step.tokens:
            taken += 1
            self._count += 1
            if token in self._ends:
                finish = "stop"
                break
            stop = self._push(token, events)
            if stop:
                finish = "stop"
                break
            if self._over_budget() and not (step.finish and taken == len(step.tokens)):
                self._close_reasoning(events)
                finish = "length" if self._spent() else None
                break
        if step.cumulative_logprob is not None:
            self._logprob = self._earlier_logprob + step.cumulative_logprob
        if finish is not None and not stop:
            stop = self._finish(events)
            finish = "stop" if stop else finish
        if finish is not None and self._parser.called:
            finish = "tool_calls"
        self._send(events, step, finish, stop, taken)
        if run.abandoned and finish is None:
            self._generate()

    def _push(self, token: int, events: list[Event]) -> str:
        """Add what `token` gives to `events`; the stop text that it completed, or nothing."""
        if self._budget is not None:
            self._generated.append(token)
        in_reasoning = self._parser.reasoning
        text = self._detokenizer.push(token)
        stop = self._filter(self._parser.push(text), events) if text else ""
        self._reasoning_count += in_reasoning and self._parser.reasoning
        return stop

    def _finish(self, events: list[Event]) -> str:
        """Add what was held back to `events`; the stop text in it, or nothing."""
        stop = self._filter(self._parser.finish(), events)
        if not stop:
            events.append(Content(self._stops.flush()))
        return stop

    def _filter(self, given: Iterable[Event], events: list[Event]) -> str:
        """Add what is given to `events` up to a stop text in the content, which is returned.

        Reasoning and arguments may hold a stop text: it would cut them, and not the answer.
        """
        for event in given:
            if isinstance(event, Content):
                text, stop = self._stops.push(event.text)
                events.append(Content(text))
                if stop is not None:
                    return stop
            else:
                events += [Content(self._stops.flush()), event]
        return ""

    def _over_budget(self) -> bool:
        return (
            self._budget is not None
            and self._parser.reasoning
            and self._reasoning_count >= self._budget
        )

    def _close_reasoning(self, events: list[Event]) -> None:
        """End the reasoning, and abandon the generation."""
        self._budget = None
        self._run.abandoned = True
        self._filter(self._parser.push(THINK_END), events)
        most = self._prepared.max_tokens
        self._count = min(self._count + len(self._prepared.closing), most)

    def _spent(self) -> bool:
        return self._count >= self._prepared.max_tokens

    def _generate(self) -> None:
        """Generate what follows the prompt, or the reasoning that was closed."""
        resumed, prompt = self._run.abandoned, self._prepared.prompt
        if resumed:
            # Tokens of a character that is not complete are left out.
            whole = self._generated[: len(self._generated) - self._detokenizer.pending]
            prompt = (*prompt, *whole, *self._prepared.closing)
            self._detokenizer = self._vocabulary.detokenizer()
            self._earlier_logprob = self._logprob or 0.0
            self._run = _Run(self, self._sink)
        prepared = self._prepared
        left = prepared.max_tokens - self._count
        guide = prepared.content_guide if resumed else prepared.guide
        self._submit(
            TokenRequest(prompt, left, self._ends, prepared.text, prepared.request, resumed, guide),
            self._run,
        )

    def _send(
        self,
        events: Sequence[Event],
        step: TokenStep,
        finish: str | None,
        stop: str = "",
        taken: int = 0,
    ) -> None:
        text = reasoning = ""
        calls: tuple[Call, ...] = ()
        for event in events:
            if isinstance(event, Content):
                text += event.text
            elif isinstance(event, Reasoning):
                reasoning += event.text
            else:
                calls += (event,)
        usage = None
        if finish:
            usage = Usage(len(self._prepared.prompt), self._count, self._reasoning_count)
        added, self._sent = self._count - self._sent, self._count
        self._sink.step(
            Step(
                text,
                finish,
                stop,
                self._logprob,
                step.metrics,
                reasoning,
                calls,
                self._logprobs(step, taken),
                usage,
                added,
            )
        )

    def _logprobs(self, step: TokenStep, taken: int) -> tuple[TokenLogprob, ...]:
        """Those of the first `taken` tokens of a step, as far as the executor gives them."""
        most = self._prepared.request.logprobs
        if most is None:
            return ()
        text = self._vocabulary.token_text
        rows = list(zip(step.tokens[:taken], step.logprobs, strict=False))
        return tuple(
            TokenLogprob(
                text(token),
                values[token],
                tuple((text(other), value) for other, value in _likeliest(values, most)),
            )
            for token, values in rows
            if token in values
        )


class _Run:
    """One generation of a stage: what the executor writes to."""

    def __init__(self, stage: TextStage, sink: Sink) -> None:
        self._stage = stage
        self._sink = sink
        self.abandoned = False

    @property
    def done(self) -> bool:
        return self.abandoned or self._sink.done

    def step(self, step: TokenStep) -> None:
        if self.done:
            return
        try:
            self._stage.take(step)
        except Exception as error:  # the executor's thread serves other requests, too
            self.abandoned = True
            self._sink.fail(f"{type(error).__name__}: {error}", Failure.INTERNAL)

    def fail(self, message: str, failure: Failure) -> None:
        if not self.done:
            self._sink.fail(message, failure)


def _likeliest(values: Mapping[int, float], most: int) -> list[tuple[int, float]]:
    """The likeliest tokens; those that a guide excludes have a probability of 0."""
    possible = [row for row in values.items() if row[1] > -math.inf]
    return sorted(possible, key=lambda row: -row[1])[:most]
