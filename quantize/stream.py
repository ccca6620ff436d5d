"""Quantize a checkpoint, or take a quantized one over, shard by shard: read, encode and write
overlap, memory stays bounded.

Every output shard holds what became of one source shard, under the same file name. It appears when
it is whole and on the disk, and a run that was killed goes on after the last one.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch

from ..core.errors import BadInputError
from ..model.checkpoint import Checkpoint
from ..model.contents import COMPANIONS, CONFIGURATION, INDEX_NAME, SINGLE_NAME
from ..model.ending import GENERATION, end_tokens
from ..model.headers import TensorInfo
from ..model.recipe import Recipe
from ..runtime.formats import Deviation
from .job import Shard, ShardJob, prepare, preview, raw_bytes
from .journal import Journal
from .layerwise import SOURCE_DTYPES
from .layouts import DEFAULT, Layout
from .pipeline import Pipeline
from .shard_reader import ShardReader
from .shard_writer import ShardLink, ShardWriter, can_link, file_bytes
from .smooth import Folding
from .takeover import takeover

PIECE_BYTES: Final = 16 << 20
"""Tensors that are only copied go in pieces of this size."""

Listener = Callable[[int, str, float], None]

ShardSource = Callable[[Path], AbstractContextManager[Path]]
"""Provides a source shard at the path that is yielded. May delete it when the block ends, because
its output is on the disk then. The block may end in another thread."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a quantization wrote. Bytes are tensor bytes; `tensors` counts quantized weights,
    `kept_shards` output shards that an interrupted run had finished before. `errors` are the
    relative Frobenius errors of the quantized tensors, by source name."""

    recipe: str
    layout: str
    tensors: int
    source_bytes: int
    written_bytes: int
    kept_shards: int
    errors: Mapping[str, float]


def quantize(
    checkpoint: Checkpoint,
    recipe: Recipe,
    out: Path,
    *,
    layout: Layout = DEFAULT,
    activation_amax: Mapping[str, float] | None = None,
    folding: Folding | None = None,
    state: Path | None = None,
    shard_source: ShardSource | None = None,
    verify_sha256: Mapping[str, str] | None = None,
    on_progress: Listener | None = None,
) -> Summary:
    """Write `checkpoint` in the format of `recipe` into the existing directory `out`.

    Args:
        checkpoint: The source. Its shards need not be there yet if `shard_source` brings them.
        recipe: Which tensors become what.
        out: Empty, or with `state` what an interrupted run left there.
        layout: How the result is laid out in files.
        activation_amax: Largest input magnitude by name of each quantized weight, needed where the
            recipe has activation scales; and by `...k_proj.k_scale` and `...v_proj.v_scale` the
            largest key and value of each attention layer, where the KV cache is to be FP8.
        folding: Smoothing scales, folded into the weights before they are rounded.
        state: An existing directory that remembers finished shards; the same job with the same
            `state` and `out` does not make them again.
        shard_source: Entered before a shard's tensors are read, left when its output is safe.
        verify_sha256: SHA-256 by shard name, checked while reading.
        on_progress: Told how many source bytes are done, the tensor that was last, and the relative
            error of all that this run has encoded; called from several threads, one at a time.

    Raises `BadInputError` naming file and tensor, `RefusedError` for widths that do not divide or
    activation scales that are missing.
    """
    job = prepare(checkpoint, recipe, layout, activation_amax, folding)
    return run(
        job,
        out,
        state=state,
        shard_source=shard_source,
        verify_sha256=verify_sha256,
        on_progress=on_progress,
    )


def run(
    job: ShardJob,
    out: Path,
    *,
    state: Path | None = None,
    shard_source: ShardSource | None = None,
    verify_sha256: Mapping[str, str] | None = None,
    on_progress: Listener | None = None,
) -> Summary:
    """Do what `job` plans, into the existing directory `out`. The arguments, and what is raised,
    are those of `quantize`."""
    journal = Journal(out, state, job.identity())
    kept = len(journal)
    progress = _Progress(on_progress)
    source = shard_source or nullcontext
    unfinished: set[_Output] = set()
    try:
        with Pipeline() as pipeline:
            run = _Run(job, out, state, journal, pipeline, progress, unfinished)
            for shard in job.shards:
                if shard.name in journal:
                    progress.add(shard.source_bytes, shard.infos[-1].name if shard.infos else "")
                    continue
                pipeline.begin_shard()
                output = _Output(run, shard)
                path = output.enter(source(shard.path))
                _feed(output, path, (verify_sha256 or {}).get(shard.path.name))
    except BaseException as error:
        for output in list(unfinished):
            output.abandon(error)
        raise
    _write_configuration(job, out)
    return Summary(
        job.recipe.key,
        job.layout.key,
        job.quantized_count,
        job.checkpoint.bytes,
        job.written_bytes,
        kept,
        journal.errors,
    )


def bytes_needed(
    checkpoint: Checkpoint, recipe: Recipe, layout: Layout = DEFAULT, out: Path | None = None
) -> int:
    """Bytes of all files that quantizing or taking over will write: shards, and the files that are
    copied. A shard that will be a link in the directory `out` takes none.

    Raises as `quantize` for a checkpoint that cannot be quantized so.
    """
    job = (
        takeover(checkpoint, layout)
        if checkpoint.is_quantized
        else preview(checkpoint, recipe, layout)
    )
    written = sum(
        file_bytes(shard.flat_entries())
        for shard in job.shards
        if not (out and shard.kept and can_link(shard.path, out))
    )
    carried = [checkpoint.path / name for name in (*COMPANIONS, CONFIGURATION)]
    copied = sum(path.stat().st_size for path in carried if path.is_file())
    return written + copied + len(_json(_index(job)))


class _Progress:
    """Source bytes done and rounding errors, summed over all threads."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        self._done = 0
        self._deviation = Deviation()

    def add(self, count: int, tensor: str, deviation: Deviation | None = None) -> None:
        with self._lock:
            self._done += count
            if deviation is not None:
                self._deviation.add(deviation)
            if self._listener:
                self._listener(self._done, tensor, self._deviation.relative)


@dataclass(frozen=True, slots=True)
class _Run:
    """What all output shards of one quantization share; `unfinished` holds those in progress."""

    job: ShardJob
    out: Path
    state: Path | None
    journal: Journal
    pipeline: Pipeline
    progress: _Progress
    unfinished: set[_Output]


class _Output:
    """An output shard that is being written; completes itself when its last piece is done."""

    def __init__(self, run: _Run, shard: Shard) -> None:
        self.run, self.shard = run, shard
        self._source = ExitStack()
        self._writer: ShardWriter | ShardLink | None = None
        self._errors: dict[str, float] = {}
        self._pieces = 1  # the reader's own: the shard is not complete while it reads
        self._lock = threading.Lock()
        run.unfinished.add(self)

    def enter(self, source: AbstractContextManager[Path]) -> Path:
        """Wait for the source shard and begin the file; returns the path to read from."""
        path = self._source.enter_context(source)
        target, state = self.run.out / self.shard.name, self.run.state
        if self.shard.kept:
            self._writer = ShardLink(target, path, state)
        else:
            self._writer = ShardWriter(target, self.shard.flat_entries(), state)
        return path

    @property
    def writer(self) -> ShardWriter | ShardLink:
        assert self._writer is not None, "entered before anything is written"
        return self._writer

    def expect(self) -> None:
        """Register one more piece."""
        with self._lock:
            self._pieces += 1

    def done(self, info: TensorInfo, count: int, deviation: Deviation | None) -> None:
        """A piece of `count` source bytes of `info` is written."""
        if deviation is not None:
            self._errors[info.name] = deviation.relative
        self.run.progress.add(count, info.name, deviation)
        self.end_piece()

    def end_piece(self) -> None:
        """Mark one piece as done; after the last one, finish the shard."""
        with self._lock:
            self._pieces -= 1
            if self._pieces:
                return
        self.writer.finish()
        self.run.journal.add(self.shard.name, self.writer.bytes, self._errors)
        self.run.unfinished.remove(self)
        self._source.close()
        self.run.pipeline.end_shard()

    def abandon(self, error: BaseException) -> None:
        """Delete what was written and raise the error in the source shard's block. No worker may
        be running."""
        if self._writer:
            self._writer.abandon()
        self._source.__exit__(type(error), error, error.__traceback__)


def _feed(output: _Output, path: Path, sha256: str | None) -> None:
    """Read a shard from front to back, and submit its pieces to be encoded or copied."""
    job, pipeline = output.run.job, output.run.pipeline
    with ShardReader(path, sha256) as reader:
        job.checkpoint.require_unchanged(path, reader.fileno())
        for info, offset, length in _pieces(job, output.shard):
            data = pipeline.borrow(length)
            reader.read(info, offset, data)
            output.expect()
            pipeline.submit(partial(_process, output, info, offset, data), data)
        reader.finish()
        job.checkpoint.require_unchanged(path, reader.fileno())
    pipeline.submit(output.end_piece)


def _pieces(job: ShardJob, shard: Shard) -> Iterator[tuple[TensorInfo, int, int]]:
    """Tensor, offset and length of each piece: whole tensors where values matter."""
    for info in shard.infos:
        if job.changes(info.name):
            yield info, 0, info.bytes
            continue
        for offset in range(0, max(1, info.bytes), PIECE_BYTES):
            yield info, offset, min(PIECE_BYTES, info.bytes - offset)


def _process(output: _Output, info: TensorInfo, offset: int, data: bytearray) -> None:
    job, writer = output.run.job, output.writer
    deviation = None
    if job.changes(info.name):
        tensors, deviation = job.changed(info, data)
        for name, tensor in tensors.items():
            writer.write(name, raw_bytes(tensor))
    else:
        _require_numbers(info, data)
        writer.write(info.name, data, offset)
    if offset + len(data) == info.bytes:
        for name, scale in job.added(info.name).items():
            writer.write(name, raw_bytes(scale))
    output.done(info, len(data), deviation)


def _require_numbers(info: TensorInfo, data: bytearray) -> None:
    """Refuse NaN and infinity in copied tensors too, because the model would answer nonsense."""
    if not data:
        return
    if info.dtype == "F8_E4M3":
        numbers = not bool((torch.frombuffer(data, dtype=torch.uint8) & 0x7F == 0x7F).any())
    elif info.dtype in SOURCE_DTYPES:
        low, high = torch.aminmax(torch.frombuffer(data, dtype=SOURCE_DTYPES[info.dtype]))
        numbers = bool(torch.isfinite(low) & torch.isfinite(high))
    else:
        return
    if not numbers:
        raise BadInputError(f"{info.shard}: tensor {info.name} holds NaN or infinite values")


def _write_configuration(job: ShardJob, out: Path) -> None:
    source = job.checkpoint.path
    for name, content in job.configuration().items():
        _write_json(out / name, content)
    if [shard.name for shard in job.shards] != [SINGLE_NAME]:
        _write_json(out / INDEX_NAME, _index(job))
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    completed = end_tokens(source, job.checkpoint.config).completed
    if completed is not None:
        _write_json(out / GENERATION, completed)


def _index(job: ShardJob) -> Mapping[str, object]:
    weight_map = {entry.name: shard.name for shard in job.shards for entry in shard.flat_entries()}
    total = {"total_size": job.written_bytes}
    return {"metadata": total, "weight_map": dict(sorted(weight_map.items()))}


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _write_json(path: Path, value: object) -> None:
    path.write_bytes(_json(value))
