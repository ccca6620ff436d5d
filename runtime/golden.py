"""Golden outputs: what a bundle's checkpoint says, and whether a server says the same.

Free-running text cannot be compared: two identical runs of this architecture differ in their last
bits, and one token that falls the other way changes all that follow. So the recorded continuation
is fed in (teacher forcing), and at each of its positions the log-probabilities of the tokens that
were likeliest are compared:

- *divergence*: Kullback-Leibler divergence in nats from the recorded to the seen distribution, over
  the recorded tokens and the rest of the vocabulary as one, averaged over positions and prompts.
  The eighth of the prompts that differ most are left out: where a router's choice is a near tie,
  rounding decides it, and all that follows in that prompt is different. A fault is in most prompts:
  experts in the wrong place, nibbles in the wrong order, weights of something else.
- *agreement*: the share of positions at which the same token is likeliest.
- *gain*: how much of the effect of quantization scales that are all 2 % too large is in the
  difference: 0 for a healthy server, 1 for that fault, -1 for its opposite. Rounding has no
  direction, so this sees an error that divergence cannot tell from rounding. Differences are
  clipped, so that a router's choice that falls the other way does not drown the rest.

Bounds come from a healthy second run in another precision when they are recorded. Prompts are far
shorter than a chunk of prefill, so chunked prefill does not come into it.

A `Recording` is one of three things, and says which: golden outputs, made while the bundle was
built from its weights, without any server; the statement that none could be made; or the baseline
of a node, which a server recorded of itself. A baseline shows change and nothing else. Pure Python.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

FORMAT: Final = 2
FILE: Final = "golden.json"

Status = Literal["golden", "not_recorded", "baseline"]

TOP: Final = 8
"""Tokens recorded at each position."""

ASKED: Final = 20
"""Tokens asked for when comparing: so many of the recorded ones are surely among them."""

CLIP: Final = 0.05
"""Nats beyond which a single difference says no more about the gain."""

LEFT_OUT: Final = 8
"""Of so many prompts, the one that differs most is left out of the divergence."""

GAIN_BOUND: Final = 0.25
DIVERGENCE_FACTOR: Final = 5.0
DIVERGENCE_FLOOR: Final = 1e-4
DISAGREEMENT_FACTOR: Final = 3.0
DISAGREEMENT_FLOOR: Final = 0.02

Tokens = tuple[int, ...]

Scores = Sequence[Mapping[int, float]]
"""At each position, the log-probabilities of the likeliest tokens by their number."""


class GoldenError(ValueError):
    """A file of golden outputs that cannot be used; the message names it."""


@dataclass(frozen=True, slots=True)
class Forced:
    """A prompt, and the continuation that is fed in whatever the model would say."""

    prompt: Tokens
    forced: Tokens


@dataclass(frozen=True, slots=True)
class Position:
    """The recorded tokens at one position, their log-probabilities, and by how much these change
    when all quantization scales grow by 2 % (empty where that was not recorded)."""

    tokens: Tokens
    logprobs: tuple[float, ...]
    gains: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One recorded prompt."""

    text: str
    case: Forced
    positions: tuple[Position, ...]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a healthy server keeps."""

    divergence: float
    agreement: float
    gain: float = GAIN_BOUND


@dataclass(frozen=True, slots=True)
class FromSource:
    """How far the quantized checkpoint is from its source on the recorded positions: mean
    divergence in nats a token, share of the same likeliest token, and `rounding`, the divergence
    that plain rounding to the same format costs."""

    divergence: float
    agreement: float
    rounding: float


@dataclass(frozen=True, slots=True)
class Recording:
    """Outputs of the checkpoint with that digest, recorded by `by`.

    `note` says in words what could not be done: why nothing is recorded, or why the checkpoint was
    not compared with its source. `bounds` are None, and positions absent, where nothing is
    recorded; `source` is None without that comparison.
    """

    status: Status
    checkpoint: str
    by: str
    entries: tuple[Entry, ...]
    bounds: Bounds | None = None
    source: FromSource | None = None
    note: str = ""

    def write(self, path: Path) -> None:
        """Write them as JSON, numbers as short as they are meant."""
        text = json.dumps(self._record(), separators=(",", ":")) + "\n"
        path.write_text(text, encoding="utf-8")

    def describe(self) -> str:
        """What is recorded, in one sentence."""
        if self.bounds is None:
            return self.note
        positions = sum(len(entry.positions) for entry in self.entries)
        text = f"{positions} positions, recorded by {self.by}"
        if self.source is not None:
            text += (
                f"; {self.source.divergence:.1e} nats a token from the source, where plain "
                f"rounding costs {self.source.rounding:.1e}"
            )
        return f"{text}; {self.note}" if self.note else text

    def _record(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "status": self.status,
            "checkpoint": self.checkpoint,
            "by": self.by,
            "note": self.note,
            "bounds": asdict(self.bounds) if self.bounds else None,
            "source": asdict(self.source) if self.source else None,
            "prompts": [
                {
                    "text": entry.text,
                    "prompt": list(entry.case.prompt),
                    "forced": list(entry.case.forced),
                    "positions": [
                        [list(p.tokens), _short(p.logprobs, 4), _short(p.gains, 5)]
                        for p in entry.positions
                    ],
                }
                for entry in self.entries
            ],
        }

    @classmethod
    def read(cls, path: Path) -> Recording:
        """Read them. Raises `GoldenError` for a file that cannot be used."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["format"] != FORMAT:
                raise GoldenError(
                    f"{path}: has format {record['format']}, this version reads {FORMAT}; build "
                    "the bundle again"
                )
            return cls._of(record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, GoldenError):
                raise
            raise GoldenError(f"{path}: cannot be used: {error!r}; build again") from None

    @classmethod
    def _of(cls, record: Mapping[str, Any]) -> Recording:
        bounds = Bounds(**record["bounds"]) if record["bounds"] else None
        source = FromSource(**record["source"]) if record["source"] else None
        status = record["status"]
        if status not in get_args(Status) or (status == "not_recorded") != (bounds is None):
            raise ValueError(f"the status {status!r} does not fit its content")
        return cls(
            status=status,
            checkpoint=str(record["checkpoint"]),
            by=str(record["by"]),
            entries=tuple(_entry(row, bounds is not None) for row in record["prompts"]),
            bounds=bounds,
            source=source,
            note=str(record["note"]),
        )


def _entry(row: Mapping[str, Any], recorded: bool) -> Entry:
    case = Forced(_numbers(row["prompt"]), _numbers(row["forced"]))
    positions = tuple(
        Position(_numbers(tokens), tuple(map(float, logprobs)), tuple(map(float, gains)))
        for tokens, logprobs, gains in row["positions"]
    )
    for position in positions:
        if len(position.tokens) != len(position.logprobs):
            raise ValueError("tokens and log-probabilities are not as many")
    if recorded and len(positions) != len(case.forced):
        raise ValueError("positions and forced tokens are not as many")
    return Entry(str(row["text"]), case, positions)


def _numbers(values: Sequence[Any]) -> Tokens:
    if any(not isinstance(value, int) or value < 0 for value in values):
        raise ValueError("token numbers are whole and not negative")
    return tuple(values)


def _short(values: Sequence[float], digits: int) -> list[float]:
    return [round(value, digits) for value in values]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far a server's outputs are from the recorded ones. `gain` is None where not recorded."""

    positions: int
    divergence: float
    agreement: float
    gain: float | None

    def faults(self, bounds: Bounds) -> list[str]:
        """What is out of bounds, one phrase each."""
        found = []
        # Written so that NaN is a fault.
        if not self.divergence <= bounds.divergence:
            found.append(
                f"divergence {self.divergence:.1e} nats a token, at most {bounds.divergence:.1e}"
            )
        if not self.agreement >= bounds.agreement:
            found.append(
                f"the same likeliest token at {self.agreement:.1%} of positions, at least "
                f"{bounds.agreement:.1%}"
            )
        if self.gain is not None and not abs(self.gain) <= bounds.gain:
            found.append(
                f"gain {self.gain:+.2f}, at most {bounds.gain:.2f} either way (1 is what "
                "quantization scales that are 2 % off would do)"
            )
        return found


def compare(entries: Sequence[Entry], seen: Sequence[Scores]) -> Comparison:
    """Compare the recorded positions with `seen`, one `Scores` for each entry."""
    pairs = list(_pairs(entries, seen))
    if not pairs:
        raise GoldenError("no outputs are recorded")
    by_prompt = [
        sum(map(_divergence, entry.positions, scores)) / len(entry.positions)
        for entry, scores in zip(entries, seen, strict=True)
        if entry.positions
    ]
    kept = sorted(by_prompt)[: len(by_prompt) - len(by_prompt) // LEFT_OUT]
    # What is no number has no place in an order, and is a fault wherever it is.
    usable = all(map(math.isfinite, by_prompt))
    divergence = sum(kept) / len(kept) if usable else math.nan
    same = sum(_likeliest(scores) == position.tokens[0] for position, scores in pairs)
    return Comparison(len(pairs), divergence, same / len(pairs), _gain(pairs))


def bounds_from(healthy: Comparison, floor: float = DIVERGENCE_FLOOR) -> Bounds:
    """Bounds that a run like this one keeps with a margin; `floor` in nats."""
    disagreement = DISAGREEMENT_FACTOR * (1 - healthy.agreement) + DISAGREEMENT_FLOOR
    divergence = max(DIVERGENCE_FACTOR * healthy.divergence, floor)
    return Bounds(divergence=divergence, agreement=max(0.0, 1 - disagreement))


def recorded_positions(base: Scores, scaled: Scores | None) -> tuple[Position, ...]:
    """What is recorded of a run, and of one whose scales are all 2 % larger."""
    positions = []
    for index, scores in enumerate(base):
        top = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:TOP]
        gains: tuple[float, ...] = ()
        if scaled is not None:
            gains = tuple(_logprob(scaled[index], t) - value for t, value in top)
        positions.append(Position(tuple(t for t, _ in top), tuple(v for _, v in top), gains))
    return tuple(positions)


def _pairs(
    entries: Sequence[Entry], seen: Sequence[Scores]
) -> Iterator[tuple[Position, Mapping[int, float]]]:
    for entry, scores in zip(entries, seen, strict=True):
        yield from zip(entry.positions, scores, strict=True)


def _logprob(scores: Mapping[int, float], token: int) -> float:
    """A token's log-probability; of one that is not among those seen, the smallest of them."""
    return scores[token] if token in scores else min(scores.values())


def _likeliest(scores: Mapping[int, float]) -> int:
    return max(scores, key=lambda token: (scores[token], -token))


def _divergence(position: Position, scores: Mapping[int, float]) -> float:
    seen = [_logprob(scores, token) for token in position.tokens]
    total = sum(
        math.exp(recorded) * (recorded - other)
        for recorded, other in zip(position.logprobs, seen, strict=True)
    )
    rest = max(1 - sum(map(math.exp, position.logprobs)), 1e-6)
    rest_seen = max(1 - sum(map(math.exp, seen)), 1e-6)
    return total + rest * math.log(rest / rest_seen)


def _gain(pairs: Sequence[tuple[Position, Mapping[int, float]]]) -> float | None:
    """Least squares of the differences on the recorded gains, weighted by probability."""
    product = square = 0.0
    for position, scores in pairs:
        if not position.gains:
            return None
        for token, logprob, gain in zip(
            position.tokens, position.logprobs, position.gains, strict=True
        ):
            weight, expected = math.exp(logprob), _clipped(gain)
            product += weight * expected * _clipped(_logprob(scores, token) - logprob)
            square += weight * expected * expected
    return product / square if square else None


def _clipped(value: float) -> float:
    return max(-CLIP, min(CLIP, value))
