"""Check and use a checkpoint's `tokenizer.json`, in a child process with limits.

It brings regular expressions and a normalizer of its maker's, run by a library in another language:
what they take in time and memory is theirs to choose, so a child that can be ended does the work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from ..core.errors import BadInputError
from ..core.untrusted import open_inside
from ..runtime.isolation import Limits, Worker, WorkError, serve
from ..runtime.untrusted import Signature, signature

TOKENIZER_NAME: Final = "tokenizer.json"

MAX_BYTES: Final = 64_000_000
"""Largest file; that of the Nemotron 3 family has 17 MB."""

LIMITS: Final = Limits(seconds=3, memory=224 * 2**20)
"""Nemotron 3's takes 0.7 s and 145 MB."""

PROBE_LENGTH: Final = 2_000
PROBES: Final = (
    "a",
    "A",
    "0",
    " ",
    "\n",
    "\t",
    "!",
    "é",
    "中",
    "a ",
    "aA",
    "a0",
    "a!",
    " \n",
    "0,",
)
"""Repeated `PROBE_LENGTH` times, what regular expressions that backtrack without end stumble on."""

MODULE: Final = "nemotron_deploy.model.tokenizer"


def check_tokenizer(path: Path, vocab_size: int) -> None:
    """Check that the tokenizer at `path` loads, fits a model of `vocab_size` rows, contradicts
    itself nowhere, and splits text in bounded time.

    Raises `BadInputError` saying what is wrong.
    """
    _checked(path, _examined(path), vocab_size)


def token_id(path: Path, token: str) -> int | None:
    """The id of `token` in the tokenizer at `path`, None where it has none. Raises
    `BadInputError`."""
    _examined(path)
    with Worker(MODULE, LIMITS) as worker:
        try:
            number: int | None = worker.ask({"path": str(path), "token": token})
        except WorkError as error:
            raise BadInputError(f"{path}: this tokenizer is refused: {error}") from error
    return number


def encode(path: Path, texts: Iterable[str], length: int) -> Iterator[list[int]]:
    """Token ids of each text, at most `length` of them. Raises `BadInputError`."""
    _examined(path)
    with Worker(MODULE, LIMITS) as worker:
        for number, text in enumerate(texts, 1):
            try:
                ids: list[int] = worker.ask({"path": str(path), "text": text, "length": length})
            except WorkError as error:
                raise BadInputError(f"{path}: encoding text {number}: {error}") from error
            yield ids


def _examined(path: Path) -> Signature:
    """The signature of the tokenizer's file, which is checked to be a file of its checkpoint's."""
    try:
        with open_inside(path) as file:
            file_signature = signature(file.fileno())
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from error
    if file_signature.size > MAX_BYTES:
        raise BadInputError(f"{path}: is too large: over {MAX_BYTES} bytes")
    return file_signature


@lru_cache(maxsize=8)
def _checked(path: Path, _: Signature, vocab_size: int) -> None:
    """A file that passed is not checked again until it changes."""
    with Worker(MODULE, LIMITS) as worker:
        try:
            worker.ask({"path": str(path), "vocab_size": vocab_size})
            worker.ask({"path": str(path), "probe": True})
        except WorkError as error:
            raise BadInputError(f"{path}: this tokenizer is refused: {error}") from error


def _handle(request: Mapping[str, Any]) -> Any:
    """The child's work."""
    path = Path(request["path"])
    if "vocab_size" in request:
        return _check_ids(path, request["vocab_size"])
    tokenizer = _loaded(path)
    if "token" in request:
        return tokenizer.token_to_id(request["token"])
    if "probe" in request:
        for probe in PROBES:
            tokenizer.encode(probe * PROBE_LENGTH + "\x00")
        return None
    return tokenizer.encode(request["text"]).ids[: request["length"]]


@lru_cache(maxsize=1)
def _loaded(path: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()  # whole texts, whatever the file was saved with
    tokenizer.no_padding()
    return tokenizer


def _check_ids(path: Path, vocab_size: int) -> None:
    """Ids lie in the model's vocabulary, no two tokens share one, and no token has two."""
    vocabulary, added = _read_ids(path)
    ids = vocabulary | {token: number for token, number in added if token not in vocabulary}
    for token, number in (*vocabulary.items(), *added):
        if not isinstance(number, int) or not 0 <= number < vocab_size:
            raise ValueError(
                f"token {token[:40]!r} has the id {number!r:.20}, but the model's vocabulary "
                f"(`vocab_size`) has {vocab_size} rows"
            )
        if ids[token] != number:
            raise ValueError(f"token {token[:40]!r} has the ids {ids[token]} and {number}")
    number, count = Counter(ids.values()).most_common(1)[0] if ids else (0, 0)
    if count > 1:
        raise ValueError(f"{count} tokens share the id {number}")


def _read_ids(path: Path) -> tuple[dict[str, int], list[tuple[str, int]]]:
    """Id by token of the vocabulary, and the added tokens."""
    import json

    fields = json.loads(path.read_bytes())
    vocabulary = fields["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: [token, score] by id
        vocabulary = {row[0]: number for number, row in enumerate(vocabulary)}
    added = [(row["content"], row["id"]) for row in fields.get("added_tokens") or ()]
    return dict(vocabulary), added


if __name__ == "__main__":
    serve(_handle)
