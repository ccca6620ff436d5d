"""What tasks need, read from lm-eval's index of them, before anything is loaded or sent."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..core.errors import RefusedError, UsageError

Index = Mapping[str, Any]
"""lm-eval's entries by name: tasks, groups of them, and tags."""

_GENERATED: Final = "generate_until"
_COMPARED: Final = frozenset({"multiple_choice", "loglikelihood"})
_VARIANTS: Final = ("generative", "chat", "cot_zeroshot", "flan_cot_zeroshot")
"""Endings of the names of lm-eval's tasks that generate where the plain one compares."""

_RULER: Final = "/tasks/ruler/"
"""In the path of the code that makes RULER's texts."""

_LOCAL: Final = frozenset({"json", "csv", "parquet", "text", "arrow"})
"""Data sets that are files. `dataset_path` of others is a repository of the hub."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """What the tasks behind one name need.

    Attributes:
        name: The name as it was given: of a task, a group or a tag.
        tasks: The single tasks behind it.
        data_sets: Data sets of the hub.
        compared: Tasks that compare log-probabilities of given answers.
        perplexity: Tasks that measure the log-probability of whole texts.
        runs_code: Tasks that run generated code.
        remote_code: Tasks whose data set brings code of its own.
        ruler: Tasks of RULER, which make texts of a length in tokens, out of data that they fetch.
    """

    name: str
    tasks: tuple[str, ...]
    data_sets: tuple[str, ...]
    compared: tuple[str, ...]
    perplexity: tuple[str, ...]
    runs_code: tuple[str, ...]
    remote_code: tuple[str, ...]
    ruler: tuple[str, ...]


def requirements(names: Sequence[str], index: Index) -> tuple[Requirements, ...]:
    """What each of `names` needs.

    Raises `UsageError` for a name that lm-eval does not know, and for two that hold the same task.
    """
    rows = tuple(_of(name, index) for name in names)
    owner: dict[str, str] = {}
    for row in rows:
        for task in row.tasks:
            if task in owner:
                raise UsageError(
                    f"--tasks: {owner[task]} and {row.name} both hold {task}; leave one out"
                )
            owner[task] = row.name
    return rows


def require_supported(rows: Sequence[Requirements], *, run_code: bool) -> None:
    """Raise `RefusedError` for tasks that are not run here, whatever the server."""
    for row in rows:
        if row.remote_code:
            raise RefusedError(
                f"{row.remote_code[0]}: its data set brings code of its own (trust_remote_code), "
                "which is never run; leave the task out"
            )
        if row.perplexity:
            raise RefusedError(
                f"{row.perplexity[0]}: measures the perplexity of whole texts, which is not "
                "supported; nemo-deploy quantize --compare measures it"
            )
        if row.runs_code and not run_code:
            raise RefusedError(
                f"{row.runs_code[0]}: runs the code that the model writes, on this machine and "
                "with your rights. Run it in a container or a virtual machine that may be lost, "
                "and add --run-generated-code"
            )


def require_generated(rows: Sequence[Requirements], index: Index, why: str) -> None:
    """Raise `RefusedError` for a task that compares log-probabilities; `why` is in words."""
    for row in rows:
        if row.compared:
            variants = [name for end in _VARIANTS if (name := f"{row.name}_{end}") in index]
            instead = (
                f"{variants[0]} asks the same and lets the model write the answer"
                if variants
                else "leave the task out, or use a server that gives them, such as vLLM's own"
            )
            raise RefusedError(
                f"{row.compared[0]}: compares the log-probabilities of given answers, and {why}; "
                f"{instead}"
            )


def _of(name: str, index: Index) -> Requirements:
    if name not in index:
        near = difflib.get_close_matches(name, index, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(
            f"--tasks: lm-eval has no task {name!r}; {hint}`lm_eval ls tasks` lists all of them"
        )
    leaves = dict(_leaves(name, index))

    def where(condition: Any) -> tuple[str, ...]:
        return tuple(task for task, config in leaves.items() if condition(config))

    hub = {
        config["dataset_path"]: None
        for config in leaves.values()
        if config.get("dataset_path")
        and "custom_dataset" not in config
        and config["dataset_path"] not in _LOCAL
    }
    return Requirements(
        name,
        tuple(leaves),
        tuple(hub),
        where(lambda config: config.get("output_type") in _COMPARED),
        where(lambda config: config.get("output_type") == "loglikelihood_rolling"),
        where(lambda config: config.get("unsafe_code")),
        where(lambda config: (config.get("dataset_kwargs") or {}).get("trust_remote_code")),
        where(lambda config: _RULER in str(config.get("custom_dataset"))),
    )


def _leaves(
    name: str, index: Index, changes: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The single tasks behind `name` and their configurations, with a group's `changes`."""
    entry = index[name]
    config = {**(entry.cfg or {}), **(changes or {})}
    members = config.get("task")
    if entry.cfg is None:  # a tag
        for task in sorted(entry.tags):
            yield from _leaves(task, index)
    elif "group" in (entry.cfg or {}) and isinstance(members, list):
        yield from _members(members, index)
    else:
        yield name, config


def _members(
    members: Sequence[str | Mapping[str, Any]], index: Index
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for member in members:
        if isinstance(member, str):
            yield from _leaves(member, index)
        elif isinstance(member.get("task"), list):  # a group inside the group
            yield from _members(member["task"], index)
        else:
            name = str(member.get("group") or member.get("task"))
            changes = {key: value for key, value in member.items() if key not in ("task", "group")}
            if name in index:
                yield from _leaves(name, index, changes)
            else:
                yield name, changes
