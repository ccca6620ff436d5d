"""Plans: every GPU and format has an answer, and its numbers add up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.build.engines.base import Engine
from nemotron_deploy.build.engines.registry import engine
from nemotron_deploy.build.engines.tensorrt_llm import arguments, hardware, support
from nemotron_deploy.build.kernels.source import source_digest
from nemotron_deploy.build.planner.plan import plan, require_buildable
from nemotron_deploy.build.plugin import seam
from nemotron_deploy.core.errors import RefusedError, UsageError
from nemotron_deploy.model.catalog import TINY, gpu, gpus, known_model
from nemotron_deploy.model.config import read_model
from nemotron_deploy.model.format_request import requested
from nemotron_deploy.model.formats import QUANTS
from nemotron_deploy.model.spec import Plan, Workload
from nemotron_deploy.tests.build.nano import nano, planned


@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("key", gpus())
def test_every_pair_is_answered(key: str, quant: str) -> None:
    result = planned(key, quant)
    assert result.reasons
    if result.buildable:
        assert result.quant["effective"] == quant
        assert result.max_concurrency >= result.concurrency >= 1
        assert result.engine.args["max_batch_size"] == result.concurrency
        assert not arguments.problems(result.engine.args, result.engine.versions)
    else:
        assert result.alternatives
        with pytest.raises(RefusedError, match=rf"rule: {result.rule}.*What works instead"):
            require_buildable(result)


@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("key", gpus())
def test_another_version_has_an_answer_for_every_pair(key: str, quant: str) -> None:
    result = planned(key, quant, "1.3.0rc25")
    assert result.alternatives
    assert not result.supported, "no Triton image carries it"
    if result.buildable:
        assert result.engine.versions == ">=1.3.0rc24,<1.3.1"
        assert "no Triton image" in result.engine.needs[0]
        # The argument table is that of 1.2.1, which knows no MARLIN.
        problems = arguments.problems(result.engine.args, result.engine.versions)
        assert all("'MARLIN'" in problem for problem in problems)


def test_nvfp4_runs_on_hopper_in_a_release_candidate_and_not_on_ampere() -> None:
    def answer(key: str, version: str | None) -> Plan:
        return planned(key, "nvfp4", version)

    found = answer("h100", "1.3.0rc24")
    assert (found.rule, found.engine.args["moe_config"]["backend"]) == ("nvfp4-marlin", "MARLIN")
    assert answer("h100", None).rule == "nvfp4-image"
    assert answer("a100", "1.3.0rc24").rule == "nvfp4-sm89"


@pytest.mark.parametrize(
    ("version", "message"),
    [("1.0.0", "no support rules for this version"), ("newest", "is not a version")],
)
def test_versions_nobody_read_are_refused(version: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        planned("h100", "fp8", version)


def followed(text: str, key: str, quant: str, size: Workload, target: Engine) -> Plan:
    """The plan that an alternative leads to."""
    words = text.split()
    options = dict(zip(words[::2], words[1::2], strict=True))
    numbers: dict[str, Any] = {
        name[2:]: int(value) for name, value in options.items() if value.isdecimal()
    }
    if "--engine" in options:
        target = engine(options["--engine"])
    if target.version_option in options:
        target = target.at(options[target.version_option])
    return plan(
        nano(),
        gpu(options.get("--gpu", key)),
        requested(options.get("--quant", quant), options.get("--recipe")).for_model(nano()),
        replace(size, **numbers),
        target,
    )


@given(
    key=st.sampled_from(sorted(gpus())),
    quant=st.sampled_from(sorted(QUANTS)),
    size=st.builds(
        Workload,
        context=st.none() | st.sampled_from([1, 1000, 262_144, 2**20]),
        concurrency=st.none() | st.sampled_from([1, 64, 2000]),
        gpus=st.sampled_from([1, 2, 3, 8]),
    ),
    name=st.sampled_from(
        [("tensorrt-llm", None), ("tensorrt-llm", "1.3.0rc24"), ("vllm", None), ("vllm", "0.24.0")]
    ),
)
def test_every_refusal_names_something_that_works(
    key: str, quant: str, size: Workload, name: tuple[str, str | None]
) -> None:
    target = engine(*name)
    found = plan(nano(), gpu(key), QUANTS[quant], size, target)
    if not found.refused:
        return
    assert found.rule
    assert found.reasons[0]
    assert found.alternatives
    for text in found.alternatives:
        if text.startswith("--"):
            assert followed(text, key, quant, size, target).buildable, text


def test_fp8_on_a100_is_refused_with_the_reason() -> None:
    result = planned("a100", "fp8")
    assert result.status == "refused"
    assert "SM80" in result.reasons[0]
    assert result.alternatives[:2] == ("--quant int8", "--quant int4")


@pytest.mark.parametrize("quant", ["int4", "int8"])
def test_the_plugin_serves_it_and_says_what_has_run(quant: str) -> None:
    for key in ("a100", "h100"):
        result = planned(key, quant)
        assert result.supported
        part = result.engine
        assert (part.backend, part.plugin) == (
            f"tensorrt-llm + {quant} plugin",
            "nemo_deploy_experts",
        )
        assert part.versions == seam.VERSIONS
        assert part.env == {"TLLM_WORKER_USE_SINGLE_PROCESS": "1"}
        several = planned(key, quant, gpus=2).engine
        assert not several.env, "several GPUs need several processes"
        assert "not with the real one" in part.evidence
        assert not part.proven
    ampere, hopper = planned("a100", quant).engine, planned("h100", quant).engine
    assert f"The {quant.upper()} kernels have not run on an SM80 GPU yet" in ampere.evidence
    assert ampere.tested_on == ()
    if quant == "int4":
        assert "ran on an NVIDIA H200 on 2026-11-27" in hopper.evidence
        assert hopper.tested_on == ("NVIDIA H200, 2026-11-27: kernels",)
    else:
        assert "The INT8 kernels have not run on an SM90 GPU yet" in hopper.evidence
        assert hopper.tested_on == ()


def test_int8_reads_what_its_bytes_are_and_says_that_its_rates_are_assumed() -> None:
    eight, four, full = (planned("a100", quant) for quant in ("int8", "int4", "bf16"))
    # A byte a weight and a scale of four bytes for 64 of them, in 93 % of the model.
    assert 1.6 < eight.weights_bytes / four.weights_bytes < 8.5 / 4.5
    assert eight.estimate is not None
    assert four.estimate is not None
    assert full.estimate is not None
    assert four.estimate.tpot_ms < eight.estimate.tpot_ms < full.estimate.tpot_ms
    assumed = "INT8 experts: the kernels were not measured"
    assert any(text.startswith(assumed) for text in eight.estimate.assumptions)


@pytest.mark.parametrize("quant", ["int4", "int8"])
def test_the_plugin_is_for_one_version_of_its_engine(quant: str) -> None:
    result = planned("a100", quant, "1.3.0rc24")
    assert (result.status, result.rule) == ("refused", f"{quant}-plugin-version")


@pytest.mark.parametrize("quant", ["int4", "int8"])
def test_dense_layers_need_what_the_plugin_lacks(quant: str) -> None:
    model = known_model("nemotron-h-56b-base-8k")
    assert model is not None
    result = plan(model, gpu("h200"), QUANTS[quant], Workload())
    assert (result.status, result.rule, result.engine.plugin) == ("needs", f"{quant}-dense", "")
    assert "dense MLPs" in result.engine.needs[0]
    part = result.engine
    assert (part.backend, part.evidence) == ("reference executor, on a CPU", "")
    assert result.estimate is None, "nothing runs it on a GPU"


def test_what_is_not_served_is_no_alternative() -> None:
    """INT4 of a dense model can be built, and no plugin runs it: it is no way out of a refusal."""
    model = known_model("nemotron-nano-9b-v2")
    assert model is not None
    result = plan(model, gpu("a100"), QUANTS["fp8"], Workload())
    assert result.rule == "fp8-sm89"
    assert not {"--quant int4", "--quant int8"} & set(result.alternatives)
    assert "--quant bf16" in result.alternatives


def test_a_run_on_hardware_is_reported_and_an_older_one_as_such(tmp_path: Path) -> None:
    record = tmp_path / "hardware.json"
    record.write_bytes(hardware.RECORD.read_bytes())
    run = hardware.Run(
        "NVIDIA H100 80GB HBM3", 90, "2027-01-02", source_digest(), "2.9", "3.9", 2.5e-3,
        {"1": 2.9}, {"1": 1.2}, stored_cubins=True,
    )  # fmt: skip
    hardware.add(run, record)
    assert json.loads(record.read_text())["runs"][-1]["gpu"] == "NVIDIA H100 80GB HBM3"
    rule = engine().rule(gpu("h100"), QUANTS["int4"], frozenset())
    text = hardware.evidence(rule, gpu("h100"), (run,))
    assert "the same kernels ran on an NVIDIA H100 80GB HBM3 on 2027-01-02" in text
    older = hardware.evidence(rule, gpu("h100"), (replace(run, source="0" * 64),))
    assert "an older version of them ran" in older
    assert "have not run on an SM80" in hardware.evidence(rule, gpu("a100"), (run,))
    eight = engine().rule(gpu("h100"), QUANTS["int8"], frozenset())
    assert "INT8 kernels have not run on an SM90" in hardware.evidence(eight, gpu("h100"), (run,))
    own = replace(run, quant="int8")
    assert "the same kernels ran" in hardware.evidence(eight, gpu("h100"), (run, own))


def test_rules_carry_their_source_and_date() -> None:
    for rule in support.RULES.rules:
        assert rule.source
        assert rule.seen in ("read", "run")
        assert len(rule.checked) == 10
        assert rule.status in ("supported", "needs", "refused")
        assert (rule.status == "needs") == bool(rule.needs)


def test_what_does_not_fit_says_what_would() -> None:
    result = planned("h100", "bf16", context=262_144, concurrency=64)
    assert result.rule == "memory"
    fitting = int(result.alternatives[0].split()[1])
    assert planned("h100", "bf16", context=262_144, concurrency=fitting).buildable
    assert not planned("h100", "bf16", context=262_144, concurrency=fitting + 1).buildable
    context = int(result.alternatives[1].split()[1])
    assert planned("h100", "bf16", context=context, concurrency=64).buildable
    assert not planned("h100", "bf16", context=context + 1, concurrency=64).buildable


def test_a_number_of_gpus_upstream_refuses() -> None:
    assert planned("h100", "int4", gpus=3).rule == "gpus"


def test_estimates_say_what_they_assume_and_order_formats() -> None:
    guesses = [planned("h100", quant).estimate for quant in ("bf16", "fp8", "int4")]
    times = [guess.tpot_ms for guess in guesses if guess]
    assert times == sorted(times, reverse=True)
    assert len(set(times)) == 3
    for guess in guesses:
        assert guess is not None
        assert guess.assumptions[0].startswith("an estimate")
        assert sum(guess.terms_ms.values()) == pytest.approx(guess.tpot_ms)


def test_unknown_format_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"int3.*bf16, fp8, int8, int4, nvfp4"):
        requested("int3")


def test_tiny_is_planned_with_the_bytes_its_file_has() -> None:
    from nemotron_deploy.model.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(TINY)
    result = plan(checkpoint.model, gpu("h100"), QUANTS["bf16"], Workload())
    assert result.weights_bytes == checkpoint.bytes


@pytest.mark.parametrize(
    ("spelled", "key"),
    [
        ("H100", "h100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("h100_sxm", "h100"),
        ("Tesla A100-SXM4-80GB", "a100"),
        ("NVIDIA-A100-SXM4-40GB", "a100-40gb"),
        ("p4d.24xlarge", "a100-40gb"),
        ("a2-ultragpu-1g", "a100"),
        ("Standard_ND96isr_H200_v5", "h200"),
        ("g6e.2xlarge", "l40s"),
        ("g6.48xlarge", "l4"),
        ("G5.xlarge", "a10"),
        ("A10G", "a10"),
        ("p5en.48xlarge", "h200"),
        ("p5.4xlarge", "h100"),
        ("a3-highgpu-2g", "h100"),
        ("Standard_NC40ads_H100_v5", "h100-nvl"),
        ("standard_nc96ads_a100_v4", "a100"),
        ("VM.GPU.A10.2", "a10"),
        ("NVIDIA GeForce RTX 3090", "rtx-3090"),
        ("rtx4090", "rtx-4090"),
        ("GeForce-RTX-5090", "rtx-5090"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "rtx-pro-6000"),
        ("g7e.12xlarge", "rtx-pro-6000"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("NVIDIA L40", "l40"),
        ("p6-b200.48xlarge", "b200"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA GB10", "dgx-spark"),
    ],
)
def test_gpus_go_by_many_names(spelled: str, key: str) -> None:
    assert gpu(spelled).key == key


def test_no_name_is_that_of_two_gpus() -> None:
    for known in gpus().values():
        for name in known.spellings:
            assert gpu(name.replace("*", "8x")).key == known.key
        for variant in known.variants:
            assert all(gpu(n.replace("*", "8x")) is variant for n in variant.spellings[1:])


def test_a_variant_has_rates_of_its_own_and_its_gpus_key() -> None:
    card = gpu("NVIDIA H100 PCIe")
    assert (card.key, card.name, card.product_labels) == (
        "h100",
        "H100 PCIe",
        ("NVIDIA-H100-PCIe",),
    )
    assert card.bandwidth_bytes_per_s < gpu("h100").bandwidth_bytes_per_s
    assert planned("H100 PCIe", "int4").gpu_name == "H100 PCIe"


def test_experts_that_do_not_divide_are_refused_before_anything_is_built() -> None:
    config = json.loads((TINY / "config.json").read_text())
    model = read_model(config, "tiny")
    result = plan(model, gpu("h100"), QUANTS["int4"], Workload(context=4096, gpus=8))
    assert (result.status, result.rule) == ("refused", "split")
    assert "`num_attention_heads`" in result.reasons[0]
    assert result.alternatives == ("--gpus 1", "--gpus 2", "--gpus 4")
    assert plan(model, gpu("h100"), QUANTS["int4"], Workload(context=4096, gpus=4)).buildable


def test_lengths_beyond_the_context_are_said() -> None:
    found = planned("h100", "fp8", context=1000, isl=1024, osl=256)
    assert "make 1,280 tokens, more than a sequence may have here (1,000)" in found.notes[0]
    assert not planned("h100", "fp8", isl=60_000, osl=1000).notes, "the context grows with them"
