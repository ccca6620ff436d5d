"""Weights from the hub: the disk they need, and their download, all at once or shard by shard
(`--low-disk`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..core.files import Work, free_bytes, require_space, tree_bytes

if TYPE_CHECKING:
    from ..core.progress import Progress
    from ..model.checkpoint import Checkpoint
    from ..quantize.options import Options
    from .checkpoint_source import Source

PASSING: Final = "shards"
"""Folder in the work's `state` where `--low-disk` keeps the source shards in use."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A checkpoint whose shards are local or, where `passing`, are downloaded as `hold` is entered
    for them: `to_fetch` bytes in all, and they can be read only once, in order."""

    checkpoint: Checkpoint
    hold: Callable[[Path], AbstractContextManager[Path]] = nullcontext
    to_fetch: int = 0
    passing: bool = False


def fetch_plan(source: Source, options: Options, place: Path) -> dict[str, Any] | None:
    """What will be downloaded, where to, and the disk space that this takes with the output at
    `place`; None for nothing."""
    if source.snapshot is None:
        return None
    from ..hub.fetch import plan_fetch

    plan = plan_fetch(source.snapshot, options.low_disk)
    if not plan.files:
        return None
    least, most = _disk(source, options, _output_bytes(source, options, place))
    return {**plan.to_json(), "disk_bytes": least, "disk_bytes_overlapped": most}


def _output_bytes(source: Source, options: Options, place: Path) -> int:
    """Bytes of the output at `place`. A shard that becomes a link there takes none, but where each
    shard is deleted once its output is written."""
    from ..quantize.stream import bytes_needed

    out = None if options.low_disk else place
    return bytes_needed(source.opened, options.recipe, options.layout, out)


def _disk(source: Source, options: Options, output: int) -> tuple[int, int]:
    """Bytes of disk for the output and for weights that are not local: the minimum and, with
    `--low-disk`, what lets download and encoding overlap."""
    remote = [shard.size for shard in source.snapshot.remote] if source.snapshot else []
    if not options.low_disk:
        return (output + sum(remote),) * 2
    largest = sorted(remote, reverse=True)
    return output + sum(largest[:1]), output + sum(largest[:2])


def require_disk(source: Source, options: Options, place: Path, present: int = 0) -> None:
    """Raise `BadInputError` where disks have no room for the output at `place`, of which `present`
    bytes are there, and for weights that are not local."""
    needed = _output_bytes(source, options, place)
    if options.low_disk:
        least, _ = _disk(source, options, needed)
        require_space({place: least - present})
        return
    if source.snapshot is None:
        require_space({place: needed - present})
        return
    from ..hub.client import cache_folder
    from ..hub.fetch import plan_fetch

    plan = plan_fetch(source.snapshot)
    cache = cache_folder(plan.repository)
    alternative = " or set HF_HUB_CACHE to another disk, or use --low-disk" if plan.bytes else ""
    require_space({place: needed - present, cache: plan.bytes}, alternative)


@contextmanager
def weights(
    source: Source,
    options: Options,
    work: Work,
    progress: Progress,
    on_fetch: Callable[[int], None],
) -> Iterator[Weights]:
    """The weights of `source` for making `work`: downloaded, or with `--low-disk` being downloaded.

    `on_fetch` takes the number of bytes that arrived since its last call, while the block runs.
    Raises `BadInputError` for a disk that is too small, and as `hub.fetch.fetch`.
    """
    folder = work.state / PASSING
    present = tree_bytes(work.content) + (tree_bytes(folder) if folder.exists() else 0)
    require_disk(source, options, work.content, present)
    snapshot = source.snapshot
    if snapshot is None or not snapshot.remote or not options.low_disk:
        yield Weights(fetched(source, progress).opened)
        return
    from ..hub.fetch import fetch_companions
    from ..hub.passing import OVERLAPPED, PassingShards

    fetch_companions(snapshot)
    _, most = _disk(source, options, _output_bytes(source, options, work.content))
    overlaps = free_bytes(work.content) >= most - present
    passing = PassingShards(
        snapshot,
        folder,
        OVERLAPPED if overlaps else 1,
        [path.name for path in work.content.iterdir()],
        on_fetch,
    )
    with passing:
        yield Weights(passing.snapshot.checkpoint, passing.hold, passing.bytes_to_fetch, True)


def is_local(source: Source) -> bool:
    """Whether all weights of `source` are on this machine now."""
    if source.snapshot is None:
        return True
    from ..hub.snapshot import has_whole

    folder = source.snapshot.folder
    return all(has_whole(folder, file) for file in source.snapshot.shards)


def fetched(source: Source, progress: Progress) -> Source:
    """`source` with all its weights local, for work that reads them more than once."""
    if source.snapshot is None:
        return source
    from ..hub.client import cache_folder
    from ..hub.fetch import fetch, plan_fetch

    plan = plan_fetch(source.snapshot)
    require_space({cache_folder(plan.repository): plan.bytes})
    snapshot = fetch(source.snapshot, progress.step("download", plan.bytes, "bytes"))
    return replace(source, checkpoint=snapshot.checkpoint, snapshot=snapshot)
