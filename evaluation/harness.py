"""Drives lm-eval: finds tasks by name, loads their data, sets them up and runs them.

lm-eval is imported when a `Harness` is made, not before: the import takes seconds.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..core.errors import BadInputError
from ..core.extras import MissingPackageError
from ..runtime import contract
from .published import Settings
from .requirements import Index, Requirements

if TYPE_CHECKING:
    from .served_model import ServedModel

OWN_TASKS: Final = Path(__file__).parent / "tasks"

_SEED: Final = 1234
"""lm-eval's own seed, which chooses the examples in front of a question."""

Results = Mapping[str, Any]
"""What lm-eval gives: scores by task, metric and filter, and every sample."""


class Harness:
    """lm-eval's tasks of the given names, or of all names where it is asked for more than our own.

    Args:
        names: Names of tasks, groups and tags.
        data_options: Options of tasks that make their data: `tokenizer`, the directory of one, and
            `max_seq_lengths`, numbers of tokens.
    """

    def __init__(self, names: Sequence[str], data_options: Mapping[str, Any]) -> None:
        os.environ.setdefault(
            contract.TQDM_DISABLE.name, "1"
        )  # bars of its own would cut ours into pieces
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        from lm_eval.tasks import TaskManager

        own = {path.stem for path in OWN_TASKS.glob("*.yaml")}
        self._manager = TaskManager(
            include_path=str(OWN_TASKS),
            include_defaults=not own.issuperset(names),  # reading 10,000 files takes half a minute
            metadata=dict(data_options),
        )

    @property
    def version(self) -> str:
        """The program and its version."""
        import lm_eval

        return f"lm-eval {lm_eval.__version__}"

    @property
    def index(self) -> Index:
        """Every known task, group and tag."""
        index: Index = self._manager.task_index
        return index

    def load(self, row: Requirements, *, run_code: bool) -> LoadedTasks:
        """Load the tasks behind one name, with their data.

        Raises `BadInputError` for data that are neither here nor can be fetched, and for a package
        that a task needs.
        """
        if run_code:
            os.environ[contract.HF_CODE.name] = "1"
        try:
            return LoadedTasks(row, self._manager.load([row.name]))
        except ModuleNotFoundError as error:
            raise BadInputError(
                f"{row.name}: lm-eval needs the Python package {error.name} for this task; install "
                f"it with: pip install {error.name}"
            ) from error
        except (MissingPackageError, KeyboardInterrupt):
            raise
        except Exception as error:  # data sets come from libraries that raise anything
            raise BadInputError(_no_data(row, error)) from error


class LoadedTasks:
    """Tasks behind one name, ready to be set up and run."""

    def __init__(self, row: Requirements, loaded: Mapping[str, Any]) -> None:
        self.row = row
        self.loaded = loaded

    def set_up(self, settings: Settings, *, chat: bool) -> Settings:
        """Apply `settings`; gives what the tasks are now run with, as the first of them says."""
        from .served_model import THINKING

        for task in self.loaded["tasks"].values():
            task.set_fewshot_seed(seed=_SEED)
            shots = settings.num_fewshot
            task.set_config(
                "num_fewshot", (task.config.num_fewshot or 0) if shots is None else shots
            )
            if task.OUTPUT_TYPE != "generate_until":
                continue
            changes: dict[str, Any] = {THINKING: settings.thinking}
            for name in ("temperature", "top_p"):
                if getattr(settings, name) is not None:
                    changes[name] = getattr(settings, name)
            if settings.max_tokens is not None or (chat and settings.thinking):
                changes["max_gen_toks"] = settings.max_tokens
            task.set_config("generation_kwargs", changes, update=True)
        return self._settings()

    def _settings(self) -> Settings:
        task = next(iter(self.loaded["tasks"].values()))
        given = task.config.generation_kwargs or {}
        return Settings(
            task.config.num_fewshot,
            given.get("temperature", 0),
            given.get("top_p"),
            given.get("max_gen_toks"),
            given.get("thinking"),
        )


def run(
    model: ServedModel,
    tasks: Sequence[LoadedTasks],
    *,
    limit: int | None,
    chat: bool,
    run_code: bool,
) -> Results:
    """Ask the model every question, or the first `limit` of each task, and score the answers."""
    from lm_eval.evaluator import evaluate

    random.seed(_SEED)
    merged: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}, "group_map": {}}
    for each in tasks:
        for part, rows in merged.items():
            rows.update(each.loaded.get(part) or {})
    results: Results = evaluate(
        model,
        merged,
        limit=limit,
        bootstrap_iters=0,  # the intervals are ours
        log_samples=True,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        confirm_run_unsafe_code=run_code,
    )
    return results


def _no_data(row: Requirements, error: Exception) -> str:
    """What to do about data that could not be loaded."""
    sets = f" ({', '.join(row.data_sets)})" if row.data_sets else ""
    words = str(error).strip().splitlines() or [type(error).__name__]
    if os.environ.get(contract.HF_OFFLINE.name) == "1":
        reason = f"{contract.HF_OFFLINE.name} is set"
    else:
        reason = words[0]
    return (
        f"{row.name}: its data{sets} are not on this machine and could not be fetched: {reason}. "
        "Run the same command where the Hugging Face hub can be reached (gated data need "
        f"{contract.HF_TOKEN.name}), then copy the directory {contract.HF_HOME.name} from there"
    )
