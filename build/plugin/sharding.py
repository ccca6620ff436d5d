"""Which part of a layer's experts lies on which rank. Arithmetic only.

Routed experts are split by expert (expert parallelism), the shared expert by its width. A rank's
result is its part of the sum, which upstream adds up over the ranks.
"""

from __future__ import annotations

from ..kernels.layout import BLOCK_K


class ShardError(ValueError):
    """A split that does not come out even; the message says what would."""


def experts_of(experts: int, rank: int, ranks: int) -> range:
    """The routed experts of `rank`: equal, consecutive parts. Raises `ShardError` otherwise."""
    if experts % ranks:
        fitting = [n for n in (1, 2, 4, 8) if experts % n == 0]
        raise ShardError(
            f"{experts} experts do not divide over {ranks} GPUs; {', '.join(map(str, fitting))} do"
        )
    count = experts // ranks
    return range(rank * count, (rank + 1) * count)


def columns_of(width: int, group: int, rank: int, ranks: int) -> range:
    """The part of a shared expert's `width` that `rank` holds: whole groups, as evenly as they go,
    or whole blocks of the kernels where a row has one scale (`group` 0).

    3712 in groups of 64 are 58 groups: 29 each on two ranks, 14 or 15 on four. Raises `ShardError`
    where a rank would get nothing.
    """
    group = group or BLOCK_K
    groups = width // group
    part = range(groups * rank // ranks * group, groups * (rank + 1) // ranks * group)
    if not part:
        raise ShardError(
            f"a shared expert of {width} has {groups} groups, too few for {ranks} GPUs"
        )
    return part
