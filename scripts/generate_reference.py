"""Write the pages of `docs/` that follow from the code: `docs/gpus.md` and `docs/reference/`.

    python scripts/generate_reference.py [--out DIRECTORY]     # `make docs`

A page states only what the program prints or its tables hold, so that a test can compare the pages
with the code (`tests/docs/test_reference.py`).
"""

from __future__ import annotations

import argparse
import inspect
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

# Help and tables depend on the terminal: all pages are made for one of this width.
os.environ |= {"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}

import typer

from nemotron_deploy.build.engines.registry import DEFAULT as DEFAULT_ENGINE
from nemotron_deploy.build.engines.registry import ENGINES, ONLY_PLANNED
from nemotron_deploy.build.engines.registry import planned as engine_named
from nemotron_deploy.cli import app, run
from nemotron_deploy.core import errors
from nemotron_deploy.k8s.checks.findings import Rule as ManifestRule
from nemotron_deploy.k8s.checks.schemas import KUBERNETES
from nemotron_deploy.k8s.checks.table import RULES as MANIFEST_RULES
from nemotron_deploy.k8s.components.monitoring import ALERTS
from nemotron_deploy.model.catalog import gpus
from nemotron_deploy.model.spec import Gpu
from nemotron_deploy.runtime import contract

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
MADE = "<!-- Made by scripts/generate_reference.py from the code. Do not edit; run `make docs`. -->"

EXIT_CODES = {
    0: "Success.",
    1: "An unforeseen error. The message names a file with the traceback: please report it.",
    2: "The command line itself is wrong: an unknown command, option, GPU, format or value.",
    3: "A support rule refuses, or the model does not fit. The message names alternatives.",
    4: "Bad input: a file, tensor, port, server or package that the command needs cannot be used.",
    5: "A check failed: a digest, a manifest, an objective, or outputs of a server.",
    130: "Interrupted with Ctrl-C. Finished parts are kept.",
    143: "Terminated by SIGTERM. Finished parts are kept.",
}

Pages = dict[str, str]
"""The text of each page by its path below `docs/`."""


def main() -> None:
    """Write all pages below `--out`, by default the repository's `docs/`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DOCS)
    out: Path = parser.parse_args().out
    for name, text in pages().items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def pages() -> Pages:
    """Every generated page."""
    made = {
        "gpus.md": gpus_page(),
        "reference/commands.md": commands_page(),
        "reference/support.md": support_page(),
        "reference/manifest-rules.md": manifest_rules_page(),
        **contract_pages(),
    }
    return {**made, "reference/index.md": index_page(made)}


def page(title: str, *parts: str) -> str:
    """A page from its title and its paragraphs, tables and sections."""
    return "\n\n".join([f"# {title}", MADE, *parts]) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    cells = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in cells)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def code(value: object) -> str:
    """`value` as inline code; nothing for an empty value."""
    return f"`{value}`" if value else ""


def block(text: str) -> str:
    """`text` as a fenced block."""
    lines = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
    return f"```text\n{lines}\n```"


def output(*arguments: str) -> str:
    """What `nemo-deploy ARGUMENTS` prints on standard output."""
    captured = io.StringIO()
    with redirect_stdout(captured):
        run(list(arguments))
    return captured.getvalue()


def commands_page() -> str:
    """Every command's help, and the exit codes."""
    names = list(typer.main.get_group(app).commands)
    sections = [f"## {name}\n\n{block(output(name, '--help'))}" for name in names]
    kinds = [errors.NemoDeployError, *errors.NemoDeployError.__subclasses__()]
    assert {kind.exit_code for kind in kinds} <= set(EXIT_CODES)
    return page(
        "Commands",
        f"The help of each command, {os.environ['COLUMNS']} columns wide.",
        block(output("--help")),
        *sections,
        "## Exit codes",
        table(("code", "meaning"), EXIT_CODES.items()),
    )


@cache
def formats() -> list[str]:
    """The values of `--quant`."""
    cells = json.loads(output("plan", "--matrix", "--json"))["cells"]
    return list(dict.fromkeys(cell["quant"] for cell in cells))


def planned(gpu: Gpu, quant: str, *more: str) -> dict[str, Any]:
    """What `nemo-deploy plan` answers, as JSON."""
    found: dict[str, Any] = json.loads(
        output("plan", "--gpu", gpu.key, "--quant", quant, *more, "--json")
    )
    return found


def support_page() -> str:
    """Which rule decides for which GPU and format, what it rests on, and when it was checked."""
    return page(
        "Support rules",
        "For a GPU and a format, `nemo-deploy plan` uses the first rule that matches. A rule says "
        "who can serve the format, or why nobody can. `read` means that the source was read, `run` "
        "that it was tried on such a GPU. Whether the model fits into memory is decided "
        "afterwards; [the recipes](../gpus.md) show both.",
        *(part for name in ENGINES for part in _decisions(name)),
        *(part for name in (*ENGINES, *ONLY_PLANNED) for part in _rules(name)),
    )


def _decisions(name: str) -> Iterator[str]:
    """What decides for an engine, for every GPU and format."""
    engine = engine_named(name)
    yield f"## {engine.title} in Triton images"
    if name == DEFAULT_ENGINE:
        yield "Models with dense MLPs follow [int4-dense](#int4-dense) for INT4 instead."
    options = ("--checkpoint", "tiny", "--engine", name)
    rows = [
        [f"{gpu.name} ({code(gpu.key)}, SM{gpu.sm})"]
        + [
            f"[{plan['rule']}](#{plan['rule']}) {plan['status']}"
            for plan in (planned(gpu, quant, *options) for quant in formats())
        ]
        for gpu in gpus().values()
    ]
    yield table(("GPU", *formats()), rows)


def _rules(name: str) -> Iterator[str]:
    """The versions and all rules of an engine."""
    engine = engine_named(name)
    path = Path(inspect.getfile(type(engine))).resolve().parent / "data" / "rules.json"
    tables = json.loads(path.read_text(encoding="utf-8"))
    yield f"## {engine.title} versions"
    if name in ENGINES:
        yield (
            "Bundles are built for the first range. "
            f"`plan --engine {name} {engine.version_option} VERSION` asks about the others."
        )
    yield from (_row_section(row, f"{engine.title} {row['key']}") for row in tables["releases"])
    yield f"## All rules for {engine.title}"
    yield f"Rules are tried in this order. They are in {code(path.relative_to(ROOT))}."
    yield from (_row_section(row, row["key"]) for row in tables["rules"])


def _row_section(row: dict[str, Any], title: str) -> str:
    """A row of the rules: its reason, and a table of its other fields."""
    reason = row.get("reason", "").replace("{sm}", "…")
    facts = [(key, _value(value)) for key, value in row.items() if key not in ("key", "reason")]
    parts = [f"### {title}", reason, table(("field", "value"), facts)]
    return "\n\n".join(filter(None, parts))


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(map(_value, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def gpus_page() -> str:
    """A recipe for each GPU: what runs, the command, memory, and what was tested."""
    return page(
        "Recipes per GPU",
        "What `nemo-deploy` answers for Nemotron 3 Nano 30B-A3B on each GPU it knows: one GPU "
        "where the model fits, otherwise the smallest number of them. *Sequences* is the "
        "largest number of sequences of 32,768 tokens that fit. *Tokens/s* is the estimated output "
        "of the server at 1024 input and 256 output tokens and the configured concurrency; it was "
        "not measured ([how it is computed](planner.md#speed), [what has run](hardware.md)). "
        "Another model or workload: `nemo-deploy plan --gpu GPU --checkpoint MODEL`.",
        *(_recipe(gpu) for gpu in gpus().values()),
    )


def _recipe(gpu: Gpu) -> str:
    plans = [_smallest(gpu, quant, name) for quant in formats() for name in ENGINES]
    rows = [
        (
            code(plan["quant"]["requested"]),
            plan["engine"]["title"],
            plan["gpus"],
            f"{plan['weights_bytes'] / 1e9:.1f} GB",
            plan["max_concurrency"],
            f"{plan['estimate']['output_tokens_per_s']:,.0f}",
            f"[{plan['rule']}](reference/support.md#{plan['rule']})",
        )
        for plan in plans
        if plan["supported"]
    ]
    refused = [plan for plan in plans if not plan["supported"]]
    tested: dict[str, list[str]] = {}
    for plan in plans:
        if plan["supported"]:
            tested.setdefault(plan["tried"], []).append(_named(plan))
    builds = [_build_command(plan) for plan in plans if plan["supported"]]
    labels = " or ".join(map(code, gpu.product_labels))
    clouds = ", ".join(code(name) for name in gpu.aliases if "*" in name)
    return "\n\n".join(
        [
            f"## {gpu.name}",
            f"`--gpu {gpu.key}`: {gpu.memory_bytes / 2**30:.0f} GiB, SM{gpu.sm}. Pods run on nodes "
            f"whose label `nvidia.com/gpu.product` is {labels}."
            + (f" Cloud machines with this GPU: {clouds}." if clouds else ""),
            table(("format", "engine", "GPUs", "weights", "sequences", "tokens/s", "rule"), rows),
            "```sh\n" + "\n".join(builds) + "\n```",
            "\n".join(
                [f"- {gpu.note}"] * bool(gpu.note)
                + [f"- {', '.join(keys)}: {text}" for text, keys in tested.items()]
                + [
                    f"- {_named(plan)} fits in "
                    "[a reduced configuration](planner.md#what-a-plan-gives-up): "
                    f"{_given_up(plan)}."
                    for plan in plans
                    if plan["concessions"]
                ]
                + [
                    f"- {_named(plan)} is refused "
                    f"([{plan['rule']}](reference/support.md#{plan['rule']})): "
                    + " ".join(plan["reasons"])
                    for plan in refused
                ]
            ),
        ]
    )


def _named(plan: dict[str, Any]) -> str:
    """The format and the engine of a plan."""
    return f"{code(plan['quant']['requested'])} on {plan['engine']['title']}"


def _given_up(plan: dict[str, Any]) -> str:
    """The settings in which a plan's server has less than usual."""
    return ", ".join(
        f"{code(concession['setting'])} {concession['chosen']} instead of {concession['usual']}"
        for concession in plan["concessions"]
    )


def _smallest(gpu: Gpu, quant: str, engine: str) -> dict[str, Any]:
    """The plan on the smallest number of GPUs that fits, or on one GPU where a rule refuses."""
    plan: dict[str, Any] = {}
    for count in (1, 2, 4, 8):
        plan = planned(gpu, quant, "--engine", engine, "--gpus", str(count))
        if plan["rule"] != "memory":
            break
    return plan


def _build_command(plan: dict[str, Any]) -> str:
    count = f" --gpus {plan['gpus']}" if plan["gpus"] > 1 else ""
    name = plan["engine"]["name"]
    engine = "" if name == DEFAULT_ENGINE else f" --engine {name}"
    return (
        f"nemo-deploy build --gpu {plan['gpu']} --quant {plan['quant']['requested']}{count}{engine}"
    )


def manifest_rules_page() -> str:
    """The rules of `verify` and `check-manifests`, by their subject."""
    return page(
        "Rules for manifests",
        "`nemo-deploy verify` applies these rules to the manifests of a bundle, and `nemo-deploy "
        "check-manifests DIR` to the manifests in any directory. A finding names the rule, the "
        "file, the object and the field, and says what is wrong and what to do. An error fails the "
        "command with exit code 5; a warning is shown.",
        "The columns say how severe a finding is in what nemo-deploy wrote (objects with the label "
        "`app.kubernetes.io/managed-by: nemo-deploy`), in other workloads that ask for GPUs or run "
        "a model server, and in all others. An empty cell: the rule does not apply.",
        "Beside them, `schema` and `malformed` are errors in the form of objects, at the oldest "
        f"and the newest supported Kubernetes ({' and '.join(KUBERNETES)}); `api-version` warns of "
        "API versions that Kubernetes has removed, `duplicate-object` of two objects of one name "
        "in a file, and `kustomize` is what `kubectl kustomize` refuses. Kinds that Kubernetes "
        "does not define are not checked against a schema; pods in them are checked.",
        "kube-linter, kube-score, polaris and checkov check more in a few places. There is no rule "
        "for user ids of 10000 and more (images of Triton run as 1000), for the pull policy Always "
        "(versions and digests do not change), for priority classes and for the namespace "
        "`default` (manifests do not know the cluster's), and none that asks for several replicas "
        "on GPUs.",
        *(part for subject, rules in MANIFEST_RULES.items() for part in _subject(subject, rules)),
    )


def _subject(subject: str, rules: Iterable[ManifestRule[Any]]) -> Iterator[str]:
    yield f"## {subject.capitalize()}"
    rows = [
        (
            code(rule.name),
            " ".join((inspect.getdoc(rule.check) or "").split()),
            f"{rule.mend}.",
            rule.ours or "",
            rule.servers or "",
            rule.others or "",
        )
        for rule in rules
    ]
    yield table(("rule", "why", "what to do", "ours", "other servers", "others"), rows)


def contract_pages() -> Pages:
    """Tensors, environment variables and metrics, from the runtime's contract."""
    return {
        "reference/tensors.md": page(
            "Tensors",
            "The served model has the tensors of TensorRT-LLM's own Triton model. Dimension -1 is "
            "any size.",
            "## Inputs",
            _tensors(contract.INPUTS),
            "## Outputs",
            _tensors(contract.OUTPUTS),
            "## Ports",
            table(
                ("port", "number", "meaning"),
                [(code(row.name), row.number, row.meaning) for row in contract.PORTS],
            ),
        ),
        "reference/environment.md": page(
            "Environment variables",
            "Every environment variable that nemo-deploy or its servers read or set. A child "
            "process receives a variable from its parent only where the last column says yes.",
            table(
                ("variable", "meaning", "default", "passed on"),
                [
                    (code(row.name), row.meaning, row.default, "yes" if row.passed else "no")
                    for row in contract.VARIABLES
                ],
            ),
        ),
        "reference/metrics.md": page(
            "Metrics",
            f"Port {contract.METRICS_PORT.number} reports these metrics at `/metrics`, brought up "
            f"to date once a second. Each has the label `{contract.MODEL_LABEL}`. Triton's own, "
            "whose names begin with `nv_`, are there as well; they count a refused request of a "
            "streaming model as a success.",
            table(
                ("metric", "type", "meaning"),
                [(code(row.name), row.type, row.help) for row in contract.METRICS],
            ),
            "The parts of a histogram are declared as counters, because Triton's interface takes "
            "one observation a call. Names, labels and values are those of a histogram, and "
            "`histogram_quantile` works on them.",
            *(_label_values(row) for row in contract.METRICS if row.label),
            "## Buckets",
            table(
                ("histogram", "upper bounds, in seconds"),
                [
                    (code(row.name), ", ".join(f"{bound:g}" for bound in row.buckets))
                    for row in contract.METRICS
                    if row.buckets
                ],
            ),
            "## Alerts",
            "The component `monitoring` of a bundle's Kubernetes manifests has these alerts and a "
            "dashboard for Grafana.",
            table(
                ("alert", "severity", "fires when"),
                [(code(row.name), row.severity, row.summary) for row in ALERTS],
            ),
        ),
    }


def _label_values(metric: contract.Metric) -> str:
    return f"## {metric.label.capitalize()}s\n\n" + table(
        (metric.label, "meaning"),
        [(code(value), meaning) for value, meaning in metric.values.items()],
    )


def _tensors(rows: Iterable[Any]) -> str:
    return table(
        ("tensor", "type", "dimensions", "optional", "meaning"),
        [
            (
                code(row.name),
                row.data_type.wire,
                list(row.dims),
                "yes" if row.optional else "no",
                row.meaning,
            )
            for row in rows
        ],
    )


def index_page(made: Pages) -> str:
    """Links to every page of the reference, and to the JSON schemas."""
    names = [name.removeprefix("reference/") for name in made if name.startswith("reference/")]
    written = sorted(path.name for path in (DOCS / "reference").glob("*.md"))
    titles = {name: made[f"reference/{name}"].splitlines()[0][2:] for name in names}
    for name in written:
        if name not in titles and name != "index.md":
            text = (DOCS / "reference" / name).read_text(encoding="utf-8")
            titles[name] = text.splitlines()[0][2:]
    schemas = sorted((DOCS / "reference" / "schemas").glob("*.json"))
    parts = ["\n".join(f"- [{title}]({name})" for name, title in sorted(titles.items()))]
    if schemas:
        parts.append("## JSON schemas")
        parts.append("\n".join(f"- [{path.stem}](schemas/{path.name})" for path in schemas))
    return page("Reference", *parts)


if __name__ == "__main__":
    main()
