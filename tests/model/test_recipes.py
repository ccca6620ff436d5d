"""Which layers a recipe quantizes, by name, by model and by file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.core.errors import BadInputError, RefusedError, UsageError
from nemotron_deploy.model.architecture import Model, Role
from nemotron_deploy.model.catalog import TINY, known_model
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.model.format_request import default_quants, requested
from nemotron_deploy.model.recipe import Recipe
from nemotron_deploy.model.recipes import CONSERVATIVE

GB = 1e9
GIB = 2**30


def known(name: str) -> Model:
    model = known_model(name)
    assert model is not None
    return model


def recipe(quant: str, model: Model, name: str | None = None) -> Recipe:
    return requested(quant, name).for_model(model).recipe


def formats(recipe: Recipe, model: Model, role: Role) -> dict[int | None, str]:
    """The format of a role by layer."""
    found = {}
    for group in model.tensors():
        if group.role is role and len(group.shape) == 2:
            chosen = recipe.format_of(group)
            found[group.layer] = chosen.key if chosen else "bf16"
    return found


def test_the_published_fp8_of_nano_spares_what_feeds_attention() -> None:
    """NVIDIA's technical report, section 4: BF16 in layers 4, 11, 18, 25, 32 and 41."""
    nano = known("nemotron-3-nano-30b-a3b")
    mamba = formats(recipe("fp8", nano), nano, Role.MAMBA_PROJ)
    assert len(mamba) == 23
    assert [at for at, key in mamba.items() if key == "bf16"] == [4, 11, 18, 25, 32, 41]
    assert set(formats(recipe("fp8", nano), nano, Role.ATTENTION).values()) == {"bf16"}
    assert set(formats(recipe("fp8", nano), nano, Role.EXPERT).values()) == {"fp8"}
    assert recipe("fp8", nano, "published") == recipe("fp8", nano)


@pytest.mark.parametrize(
    ("name", "quant", "published"),
    [
        # The hub's sizes: 33 and 19.3 GB (cards of Nano), 9.6 GiB (Nemotron Nano 9B v2 FP8).
        ("nemotron-3-nano-30b-a3b", "fp8", 33 * GB),
        ("nemotron-3-nano-30b-a3b", "nvfp4", 19.3 * GB),
        ("nemotron-nano-9b-v2", "fp8", 9.6 * GIB),
    ],
)
def test_published_recipes_weigh_what_was_published(
    name: str, quant: str, published: float
) -> None:
    model = known(name)
    assert recipe(quant, model).weights_bytes(model) == pytest.approx(published, rel=0.02)


def test_mixed_recipes_of_super_and_lightning() -> None:
    large = known("nemotron-3-super-120b-a12b")
    nvfp4 = recipe("nvfp4", large)
    assert set(formats(nvfp4, large, Role.EXPERT).values()) == {"nvfp4"}
    for role in (Role.SHARED_EXPERT, Role.MAMBA_PROJ):
        assert set(formats(nvfp4, large, role).values()) == {"fp8"}
    for role in (Role.LATENT, Role.ATTENTION, Role.HEAD, Role.MTP):
        assert set(formats(nvfp4, large, role).values()) <= {"bf16"}
    assert nvfp4.calibrates
    lightning = known("nemotron-3.5-lightning-30b-a3b")
    assert formats(recipe("nvfp4", lightning), lightning, Role.HEAD) == {None: "nvfp4"}


def test_models_of_the_same_shape_share_what_was_published() -> None:
    nano = known("nemotron-3-nano-30b-a3b")
    tiny = Checkpoint.open(TINY).model
    assert [quant.recipe for quant in default_quants(tiny)] == list(CONSERVATIVE.values())
    assert recipe("fp8", nano) != CONSERVATIVE["fp8"]
    assert recipe("int4", nano) == CONSERVATIVE["int4"]
    with pytest.raises(RefusedError, match=r"no INT4 recipe was published .*--recipe conservative"):
        requested("int4", "published").for_model(nano)


def test_aggressive_int4_is_what_public_checkpoints_have() -> None:
    nano = known("nemotron-3-nano-30b-a3b")
    aggressive = recipe("int4", nano, "aggressive")
    assert set(formats(aggressive, nano, Role.MAMBA_PROJ).values()) == {"int4"}
    assert set(formats(aggressive, nano, Role.ATTENTION).values()) == {"int8"}
    assert aggressive.weights_bytes(nano) < recipe("int4", nano).weights_bytes(nano)
    assert not aggressive.calibrates
    grouped = requested("int4", "aggressive", 32).for_model(nano).recipe
    assert {kind.group_size for kind in grouped.formats} == {32}


def test_what_gets_which_format_is_said_in_words() -> None:
    nano = known("nemotron-3-nano-30b-a3b")
    assert recipe("fp8", nano).summary == (
        "experts (and dense MLPs) FP8, Mamba FP8 (BF16 in layers that feed attention); attention, "
        "router, embeddings and head BF16; KV cache FP8; after NVIDIA's technical report of "
        "Nemotron 3 Nano, section 4"
    )
    assert recipe("int4", nano, "aggressive").summary == (
        "experts (and dense MLPs) and Mamba INT4, group 64, attention INT8, group 64; router, "
        "embeddings and head BF16"
    )
    large = known("nemotron-3-super-120b-a12b")
    assert recipe("nvfp4", large).summary.startswith(
        "routed experts NVFP4, shared experts and Mamba FP8; attention, router, embeddings and "
        "head BF16"
    )


OWN = """
kv_cache: fp8
weights:
  - tensors: [experts]
    format: int4
    group_size: 32
  - tensors: mamba
    layers: [0, 2]
    format: bf16
  - tensors: [mamba, attention]
    format: fp8
"""


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(OWN)
    tiny = Checkpoint.open(TINY).model
    own = requested("int4", str(path)).for_model(tiny)
    assert own.key == "int4"
    assert formats(own.recipe, tiny, Role.MAMBA_PROJ) == {0: "bf16", 2: "bf16", 5: "fp8"}
    assert set(formats(own.recipe, tiny, Role.ATTENTION).values()) == {"fp8"}
    assert own.recipe.scales_kv
    assert own.recipe.summary == (
        "experts (and dense MLPs) INT4, group 32, Mamba FP8 (BF16 in layers 0 and 2), attention "
        "FP8; router, embeddings and head BF16; KV cache FP8; after own.yaml"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a recipe is one mapping"),
        ("- int4", "a recipe is one mapping"),
        ("weights: []", "`weights` must list at least one entry"),
        ("weights: [{tensors: [experts], format: int3}]", "`format` must be one of fp8, int8,"),
        (
            "weights: [{tensors: [expert], format: int4}]",
            "entry 1 of `weights`: `tensors` may list",
        ),
        ("weights: [{tensors: [], format: int4}]", "must list at least one name"),
        ("weights: [{format: int4}]", "`tensors` may list"),
        ("weights: [int4]", "entry 1 of `weights` must be a mapping"),
        ("weights: [{tensors: experts, format: int4, group_size: 48}]", "must be one of 32, 64,"),
        ("weights: [{tensors: experts, format: int4, group_size: 0}]", "must be one of 32, 64,"),
        ("weights: [{tensors: experts, format: int4, group_size: true}]", "must be one of 32,"),
        ("weights: [{tensors: experts, format: fp8, group_size: 64}]", "belongs to int8 and int4"),
        ("weights: [{tensors: experts, format: bf16}]", "nothing would be quantized"),
        ("weights: [{tensors: mamba, layers: [-1], format: fp8}]", "layer numbers from 0 on"),
        ("weights: [{tensors: mamba, layers: first, format: fp8}]", "or feeding-attention"),
        ("weights: [{tensors: mamba, layers: [], format: fp8}]", "at least one number"),
        ("weights: [{tensors: head, format: fp8}]", "the head cannot be fp8"),
        ("weights: [{tensors: experts, format: int4, size: 3}]", "unknown key `size`"),
        ("weights: [{tensors: experts, format: int4}]\nkv: fp8", "unknown key `kv`"),
        ("weights: [{tensors: experts, format: int4}]\nkv_cache: int8", "must be fp8 or bf16"),
        ("weights: [", "own.yaml: "),
        ("weights: &a [*a]", "alias"),
        ("\x00", "own.yaml: "),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_with_the_entry(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(BadInputError) as refused:
        requested("int4", str(path))
    assert message in str(refused.value)
    assert str(path) in str(refused.value)


def test_what_contradicts_is_refused(tmp_path: Path) -> None:
    path, tiny = tmp_path / "own.yaml", Checkpoint.open(TINY).model
    path.write_text(OWN)
    with pytest.raises(UsageError, match="makes experts and MLPs int4, and --quant says fp8"):
        requested("fp8", str(path))
    with pytest.raises(UsageError, match="the file says the size"):
        requested("int4", str(path), 64)
    with pytest.raises(UsageError, match="belongs to a quantized format"):
        requested("bf16", "aggressive")
    with pytest.raises(UsageError, match="known are published, conservative, aggressive"):
        requested("fp8", "bold")
    with pytest.raises(BadInputError, match="No such file"):
        requested("int4", str(tmp_path / "none.yaml"))
    path.write_text(OWN.replace("[0, 2]", "[1]"))  # an expert layer
    with pytest.raises(BadInputError, match="entry 2 of `weights` decides about no weight matrix"):
        requested("int4", str(path)).for_model(tiny)


@given(st.text())
def test_any_text_is_a_recipe_or_one_error(text: str) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder) / "own.yml"
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        with pytest.raises(BadInputError, match=r"own\.yml"):
            requested("int4", str(path))
