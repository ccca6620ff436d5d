"""What coordinator and worker say to each other: one JSON object a line.

1. The worker says `Hello`. A worker of another version is refused by the coordinator.
2. `Connect` is answered with `Connected` or `Refused`.
3. For each level, the coordinator gives each `Work` and then the `Level`, which is answered with
   `Ready` once the connections are open; `Start` is answered with `Ended` after the last request,
   or soon after `Stop`.

Twice a second the worker says `Beat`, with the requests that have ended since the last one. `Ping`
is answered with `Pong` at once. The worker ends when its standard input does.
"""

from __future__ import annotations

from array import array
from typing import Any, Final, TypeVar

import msgspec

from ..client_clock import Disturbance
from ..prompts import Work as OneWork
from ..sample import Failure, Sample
from ..sender import Destination
from ..share import Held, InFlight

PROTOCOL: Final = 1
"""Changes with every change of a message."""

LINE_LIMIT: Final = 1 << 26
"""Bytes of the longest line."""


class Message(msgspec.Struct, tag_field="message", tag=str.lower):
    """Anything that is said; `message` says which of the classes below it is."""


class Hello(Message):
    """The worker has started."""

    protocol: int
    version: str


class Connect(Message):
    """Send to `destination` from now on."""

    destination: Destination


class Connected(Message):
    """The server can be tested: its address as people write it, and its model."""

    url: str
    model: str


class Refused(Message):
    """The server cannot be tested: the name of the error's class, and its message."""

    error: str
    reason: str


class Work(Message):
    """One request of the next level, after those that were given before."""

    work: OneWork


class Level(Message):
    """The given work is a level; `due` and `starts` are as in `Share`. Connect for `streams`."""

    streams: int
    due: list[float]
    starts: list[float]


class Ready(Message):
    """The level can start."""


class Start(Message):
    """Start the level after so many seconds."""

    in_s: float


class Stop(Message):
    """End the level now."""


class Ended(Message):
    """The level has ended; all its requests were told before. See `Held` and `Disturbance`."""

    duration_s: float
    first_ended: list[float]
    exhausted: float | None
    lags: list[float]
    cpu: float
    machine: float | None
    load: float

    @classmethod
    def of(cls, held: Held) -> Ended:
        """What of `held` is not told by samples."""
        seen = held.disturbance
        return cls(
            held.duration_s,
            held.first_ended,
            held.exhausted,
            list(seen.lags),
            seen.cpu,
            seen.machine,
            seen.load,
        )

    def held(self, samples: list[Sample]) -> Held:
        """The level with its `samples`."""
        disturbance = Disturbance(array("d", self.lags), self.cpu, self.machine, self.load)
        return Held(samples, self.duration_s, self.first_ended, self.exhausted, disturbance)


class Died(Message):
    """The server can no longer be reached; why, as a sentence."""

    death: str


class Beat(Message):
    """The worker lives. `samples` have ended since the last beat, and `in_flight` have not."""

    samples: list[Any]
    in_flight: list[InFlight]

    def received(self) -> list[Sample]:
        """The samples of a beat that was read. Raises `ValueError` where one is none."""
        try:
            return [_sample(fields) for fields in self.samples]
        except (KeyError, TypeError, OverflowError, msgspec.MsgspecError) as error:
            raise ValueError(f"not a sample: {error!r}") from error


class Ping(Message):
    """Answer at once."""


class Pong(Message):
    """The answer to `Ping`."""


ToWorker = Connect | Work | Level | Start | Stop | Ping
ToCoordinator = Hello | Connected | Refused | Ready | Ended | Died | Beat | Pong

_encoder: Final = msgspec.json.Encoder(enc_hook=lambda value: value.tolist())  # of arrays
_to_worker: Final[msgspec.json.Decoder[ToWorker]] = msgspec.json.Decoder(ToWorker)
_to_coordinator: Final[msgspec.json.Decoder[ToCoordinator]] = msgspec.json.Decoder(ToCoordinator)


def line(message: Message) -> bytes:
    """`message` as it is sent."""
    return _encoder.encode(message) + b"\n"


def read_by_worker(data: bytes) -> ToWorker:
    """The message in a line. Raises `ValueError` for anything else."""
    return _read(_to_worker, data)


def read_by_coordinator(data: bytes) -> ToCoordinator:
    """The message in a line. Raises `ValueError` for anything else."""
    return _read(_to_coordinator, data)


_Said = TypeVar("_Said")


def _read(decoder: msgspec.json.Decoder[_Said], data: bytes) -> _Said:
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error


def _sample(fields: dict[str, Any]) -> Sample:
    failure = fields["failure"]
    arrays = {
        "arrivals": array("d", fields["arrivals"]),
        "waits": array("d", fields["waits"]),
        "lengths": array("L", fields["lengths"]),
    }
    return Sample(**{**fields, **arrays, "failure": failure and msgspec.convert(failure, Failure)})
