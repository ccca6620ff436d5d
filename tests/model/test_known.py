"""Packaged configurations against figures that were published, to the parameter where there are
any. They were counted from weights, ours from the configuration.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from nemotron_deploy.model.architecture import ARCHITECTURE, Model, Role
from nemotron_deploy.model.catalog import CONFIGURATIONS, known_model
from nemotron_deploy.model.catalog.family import FAMILY, Repository, known_repository
from nemotron_deploy.model.config import read_model
from nemotron_deploy.runtime.untrusted import parse_json
from nemotron_deploy.tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "checkpoints.md"
TABLE = re.compile(r"(?<=<!-- family -->\n).*?(?=<!-- end of family -->)", re.DOTALL)


def known(short: str) -> Model:
    model = known_model(short)
    assert model is not None
    return model


def count(model: Model, *roles: Role) -> int:
    return sum(group.parameters for group in model.tensors() if group.role in roles)


def tensors(model: Model) -> int:
    return sum(group.count for group in model.tensors())


# `metadata.total_size` of model.safetensors.index.json in the hub's repository, in bytes, as quoted
# in public reports that read it. BF16 but for the routers' correction biases, which are F32: a
# parameter more or less, or one in another dtype, would show.
INDEX_BYTES = {
    "nemotron-3-nano-30b-a3b": 63_155_886_464,
    "nemotron-3-super-120b-a12b": 247_222_108_160,  # with MTP
    "nemotron-3-ultra-550b-a55b": 1_121_049_257_984,  # with MTP
}


@pytest.mark.parametrize(("short", "size"), INDEX_BYTES.items())
def test_bytes_are_those_of_the_published_index(short: str, size: int) -> None:
    assert known(short).bytes == size


def test_nano_is_its_index_to_the_tensor() -> None:
    """The index has 6,243 tensors and `total_parameters`, which leaves out the routers' biases.
    llama.cpp counts those, too: `n_params` 31577940288 of the GGUF files."""
    model = known("nemotron-3-nano-30b-a3b")
    assert tensors(model) == 6_243
    assert model.parameters_total == 31_577_940_288
    assert model.parameters_total - count(model, Role.ROUTER_BIAS) == 31_577_937_344


def test_super_with_and_without_mtp() -> None:
    model = known("nemotron-3-super-120b-a12b")
    assert model.parameters_total == 123_611_033_088
    assert model.parameters_total - count(model, Role.MTP) == 120_668_707_840


def test_ultra_is_published_as_561b_with_55b_active() -> None:
    """The hub shows 561B for its repository; that it is exact follows from the index's bytes."""
    model = known("nemotron-3-ultra-550b-a55b")
    assert model.parameters_total == 560_524_603_904
    assert round(model.parameters_active / 1e9) == 55
    assert round((model.parameters_total - count(model, Role.MTP)) / 1e9) == 549


def test_lightning_is_its_repository_to_the_tensor() -> None:
    """The hub's `safetensors` record of the BF16 repository at a9904d24: 32,913,263,168 in BF16 and
    3,072 in F32, 6,513 tensors in the index, 270 of them of MTP; and without MTP, Nano's number."""
    model = known("nemotron-3.5-lightning-30b-a3b")
    full = sum(group.parameters for group in model.tensors() if group.dtype == "F32")
    assert (model.parameters_total - full, full) == (32_913_263_168, 3_072)
    mtp = sum(group.count for group in model.tensors() if group.role is Role.MTP)
    assert (tensors(model), mtp) == (6_513, 270)
    nano = known("nemotron-3-nano-30b-a3b").parameters_total
    assert model.parameters_total - count(model, Role.MTP) == nano


def test_nano_9b_v2_is_its_repository_to_the_parameter() -> None:
    """`safetensors.total` of the hub's record, as in kvfit's table of models."""
    assert known("nemotron-nano-9b-v2").parameters_total == 8_888_227_328


@pytest.mark.parametrize(
    ("short", "gibibytes"),
    # NVIDIA's Model-Optimizer, examples/pruning/minitron/NVIDIA-Nemotron-Nano-9B-v2/README.md.
    [("nemotron-nano-9b-v2", 16.6), ("nemotron-nano-12b-v2", 22.9)],
)
def test_weights_of_nano_2(short: str, gibibytes: float) -> None:
    """For 12B no exact count was found: this rounded one is all that was compared."""
    assert round(known(short).bytes / 2**30, 1) == gibibytes


def test_nano_4b_is_its_repository_to_the_parameter() -> None:
    """`safetensors.total` of the hub's record of the BF16 repository."""
    model = known("nemotron-3-nano-4b")
    assert (model.parameters_total, tensors(model)) == (3_973_556_832, 263)


def test_nemotron_h_8b_is_its_index_to_the_tensor() -> None:
    """The index of the base model's repository lists 311 tensors."""
    model = known("nemotron-h-8b-base-8k")
    assert (model.parameters_total, tensors(model)) == (8_100_852_736, 311)


@pytest.mark.parametrize("row", FAMILY, ids=lambda row: row.hub)
def test_names_say_the_billions(row: Repository) -> None:
    """Rounded as names are: 31.6e9 parameters are 30B, 3.97e9 are 4B. For 47B and 56B of Nemotron-H
    no other figure was found."""
    model = known_model(row.hub)
    assert model is not None
    total = re.search(r"-(\d+)B", row.hub)
    assert total is not None
    assert model.parameters_total / 1e9 == pytest.approx(int(total[1]), rel=0.13)
    if active := re.search(r"-A(\d+)B", row.hub):
        assert model.parameters_active / 1e9 == pytest.approx(int(active[1]), rel=0.13)


@pytest.mark.parametrize("row", FAMILY, ids=lambda row: row.hub)
def test_a_sibling_is_its_original_under_its_own_name(row: Repository) -> None:
    model, original = known_model(row.hub.upper()), known_model(row.configuration)
    assert model is not None
    assert original is not None
    assert model == replace(original, name=row.name, planned_only=model.planned_only)
    assert (model.planned_only is not None) == bool(row.whole)


def test_ids_and_names_are_found_in_any_letter_case() -> None:
    assert len({row.hub.lower() for row in FAMILY}) == len(FAMILY)
    for row in FAMILY:
        assert known_repository(row.hub.lower()) == row
        first = known_repository(row.name.upper())
        assert first is not None
        assert (first.name, first.published_as) == (row.name, "bf16")
    assert known_repository("nvidia/NVIDIA-Nemotron-3-Nano-31B-A3B-BF16") is None


def test_the_page_lists_the_family() -> None:
    rows = ["| Short name | Repository | Weights |", "| --- | --- | --- |"]
    rows += [f"| {row.name} | {row.hub} | {row.published_as.upper()} |" for row in FAMILY]
    table = "".join(f"{row}\n" for row in rows)
    text = PAGE.read_text(encoding="utf-8")
    if os.environ.get("UPDATE_GOLDEN") == "1":
        text = TABLE.sub(lambda _: table, text)
        PAGE.write_text(text, encoding="utf-8")
    shown = TABLE.search(text)
    assert shown is not None
    assert shown[0] == table, "docs/checkpoints.md differs; see UPDATE_GOLDEN=1"


def test_a_quantized_sibling_says_its_format() -> None:
    formats = {row.published_as for row in FAMILY}
    assert formats == {"bf16", "fp8", "nvfp4"}
    for row in FAMILY:
        assert row.hub.endswith(f"-{row.published_as.upper()}") or row.published_as == "bf16"


@pytest.mark.parametrize("short", CONFIGURATIONS)
def test_layers_as_published(short: str) -> None:
    """Mamba, attention, MoE and MLP layers: technical reports and model cards."""
    layers = {
        "nemotron-3-nano-30b-a3b": (23, 6, 23, 0),
        "nemotron-3-super-120b-a12b": (40, 8, 40, 0),
        "nemotron-3-ultra-550b-a55b": (48, 12, 48, 0),
        "nemotron-3.5-lightning-30b-a3b": (23, 6, 23, 0),
        "nemotron-nano-9b-v2": (27, 4, 0, 25),
        "nemotron-nano-12b-v2": (28, 6, 0, 28),
        "nemotron-3-nano-4b": (21, 4, 0, 17),
        "nemotron-h-4b-base-8k": (24, 4, 0, 24),
        "nemotron-h-8b-base-8k": (24, 4, 0, 24),
        "nemotron-h-47b-base-8k": (45, 5, 0, 48),
        "nemotron-h-56b-base-8k": (54, 10, 0, 54),
    }
    model = known(short)
    assert tuple(map(model.layer_count, "M*E-")) == layers[short]


def test_one_configuration_is_read_at_a_time() -> None:
    """Importing reads none, asking for one reads that one."""
    program = (
        "import sys\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' and "
        "str(args[0]).endswith('.config.json') else None)\n"
        "from nemotron_deploy.model.catalog import known_model\n"
        "assert not opened, opened\n"
        "known_model('nemotron-nano-9b-v2')\n"
        "assert len(opened) == 1, opened\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("short", CONFIGURATIONS)
def test_what_transformers_makes_of_a_configuration_is_the_same_model(short: str) -> None:
    """Read and written again by transformers' own class, which spells layers by their kinds."""
    transformers = pytest.importorskip("transformers")
    model = known(short)
    # It takes no code and no null limit (published files have Infinity there).
    left_out = {"auto_map", *(key for key, value in model.config.items() if value is None)}
    fields = {key: value for key, value in model.config.items() if key not in left_out}
    written = parse_json(transformers.NemotronHConfig(**fields).to_json_string().encode())
    assert "hybrid_override_pattern" not in written
    assert read_model(written | {"architectures": [ARCHITECTURE]}, short) == model
