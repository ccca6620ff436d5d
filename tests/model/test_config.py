"""Reading configurations: the spellings that exist, what is refused, and that a model adds up."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.core.errors import BadInputError, RefusedError
from nemotron_deploy.model.architecture import Model, Role
from nemotron_deploy.model.catalog import CONFIGURATIONS, TINY, known_model
from nemotron_deploy.model.config import read_model
from nemotron_deploy.runtime.untrusted import parse_json

KINDS = {"M": "mamba", "E": "moe", "*": "attention", "-": "mlp"}
KINDS_5 = {**KINDS, "M": "linear_attention", "*": "full_attention"}
"""What transformers 4 and 5.14 call the layers."""

REMOVE = object()
DENSE = {"hybrid_override_pattern": "M-*-M", "num_hidden_layers": 5}
MTP = {"mtp_hybrid_override_pattern": "*E", "num_nextn_predict_layers": 1}


def config(**changes: Any) -> dict[str, Any]:
    """That of `tiny`, changed."""
    values: dict[str, Any] = json.loads((TINY / "config.json").read_text())
    values |= changes
    return {key: value for key, value in values.items() if value is not REMOVE}


def read(**changes: Any) -> Model:
    return read_model(config(**changes), "x")


@contextmanager
def refused(field: str, says: str = "") -> Iterator[None]:
    with pytest.raises(BadInputError, match=rf"x: config\.json: `{field}` .*{says}"):
        yield


# -- What is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [KINDS, KINDS_5])
def test_layers_by_letters_or_by_kind_are_the_same_model(kinds: dict[str, str]) -> None:
    by_letters = read(**DENSE, **MTP, intermediate_size=64)
    by_kind = read(
        hybrid_override_pattern=REMOVE,
        layers_block_type=[kinds[letter] for letter in "M-*-M"],
        mtp_layers_block_type=[kinds[letter] for letter in "*E"],
        num_nextn_predict_layers=1,
        num_hidden_layers=REMOVE,  # as in Nemotron 3 Ultra's
        intermediate_size=64,
    )
    assert by_kind == by_letters
    both = read(**DENSE, layers_block_type=[kinds[letter] for letter in "M-*-M"])
    assert both.pattern == "M-*-M"


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("head_dim", "attention_head_dim"),  # Nemotron-H's
        ("n_groups", "mamba_num_groups"),  # Nemotron Nano 2 has both
        ("n_groups", "mamba_n_groups"),
        ("ssm_state_size", "mamba_state_dim"),
        ("conv_kernel", "mamba_d_conv"),
        ("layer_norm_epsilon", "rms_norm_eps"),
    ],
)
def test_other_spellings(field: str, other: str) -> None:
    value = config()[field]
    assert read(**{field: REMOVE, other: value}) == read(**{other: value}) == read()
    with refused(other, f"contradicts `{field}`"):
        read(**{other: value * 2})


def test_what_transformers_5_writes_of_a_model_without_mtp() -> None:
    """It writes MTP layers always, and an infinite limit as an object."""
    text = json.dumps(config()).removesuffix("}")
    added = (
        ', "mtp_layers_block_type": ["full_attention", "moe"], "num_nextn_predict_layers": 0,'
        '"moe_latent_size": null, "time_step_limit": [0.0, {"__float__": "Infinity"}]}'
    )
    assert read_model(parse_json((text + added).encode()), "x") == read()
    plain = text + ', "time_step_limit": [0.0, Infinity]}'
    assert read_model(parse_json(plain.encode()), "x") == read()


def test_head_dim_follows_from_the_width_where_it_is_not_given() -> None:
    model = read(head_dim=REMOVE, num_attention_heads=4, num_key_value_heads=2)
    assert model.attention.head_dim == model.hidden_size // 4


def test_key_value_heads_that_are_null_are_as_many_as_heads() -> None:
    assert read(num_key_value_heads=None).attention.num_kv_heads == read().attention.num_heads


def test_an_epsilon_that_is_not_given_is_transformers_default() -> None:
    assert read(layer_norm_epsilon=REMOVE).norm_epsilon == 1e-5


@pytest.mark.parametrize("steps", [1, 2])
def test_each_mtp_step_joins_at_its_start_and_ends_in_a_norm(steps: int) -> None:
    """Names as in the index of Nemotron 3.5 Lightning's BF16 repository (one step)."""
    groups = read(**MTP | {"num_nextn_predict_layers": steps}).tensors()
    names = {group.template for group in groups if group.role is Role.MTP}
    for step in range(steps):
        first, last = f"mtp.layers.{2 * step}.", f"mtp.layers.{2 * step + 1}."
        assert {first + part for part in ("enorm.weight", "hnorm.weight", "eh_proj.weight")} < names
        assert last + "final_layernorm.weight" in names
        assert last + "mixer.gate.e_score_correction_bias" in names
    assert sum("norm.weight" in name or "eh_proj" in name for name in names) == 6 * steps


def test_biases_of_mlps_are_those_of_latent_and_mtp_projections_too() -> None:
    names = {g.template for g in read(**MTP, mlp_bias=True, moe_latent_size=64).tensors()}
    assert {
        "mtp.layers.0.eh_proj.bias",
        "mtp.layers.1.final_layernorm.bias",
        "mtp.layers.1.mixer.fc1_latent_proj.bias",
        "backbone.layers.1.mixer.fc2_latent_proj.bias",
    } < names


def moe_block(width: int, top_k: float, **more: Any) -> dict[str, Any]:
    return {
        "block_type": "moe",
        "moe_intermediate_size": width,
        "num_experts_per_tok": top_k,
    } | more


PUZZLE = {
    "architectures": ["NemotronHPuzzleForCausalLM"],
    "model_type": "nemotron_h_puzzle",
    "hybrid_override_pattern": REMOVE,
    "num_hidden_layers": REMOVE,
    "moe_intermediate_size": REMOVE,
    "num_experts_per_tok": REMOVE,
    "block_configs": [
        {"block_type": "mamba", "moe_intermediate_size": None},
        moe_block(64, 2),
        {"block_type": "attention"},
        moe_block(192, 4),
        moe_block(64, 2, n_routed_experts=8),
    ],
}


def test_layers_of_a_puzzle_have_experts_of_their_own() -> None:
    model = read(**PUZZLE)
    assert model.pattern == "ME*EE"
    shapes = [(m.num_experts, m.width, m.top_k) for m in model.expert_layers]
    assert shapes == [(12, 64, 2), (12, 192, 4), (8, 64, 2)]
    hidden = model.hidden_size
    ups = [g for g in model.tensors() if g.template.endswith("experts.{}.up_proj.weight")]
    assert [(g.count, g.shape) for g in ups] == [
        (count, (width, hidden)) for count, width, _ in shapes
    ]
    experts = sum(g.parameters for g in model.tensors() if g.role is Role.EXPERT)
    assert experts == sum(2 * count * width * hidden for count, width, _ in shapes)
    active = sum(g.parameters_active for g in model.tensors() if g.role is Role.EXPERT)
    assert active == sum(2 * top_k * width * hidden for _, width, top_k in shapes)
    assert model.planned_only is not None
    requires_sums(model)


def test_blocks_that_are_alike_are_the_uniform_model() -> None:
    uniform = read(moe_intermediate_size=64, num_experts_per_tok=2, hybrid_override_pattern="MEE",
                   num_hidden_layers=3)  # fmt: skip
    blocks = [{"block_type": "mamba"}, moe_block(64, 2), moe_block(64, 2)]
    plain = {**PUZZLE, "architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h"}
    assert read(**{**plain, "block_configs": blocks}) == uniform
    puzzle = read(**{**PUZZLE, "block_configs": blocks})
    assert puzzle == replace(uniform, planned_only=puzzle.planned_only)


def test_mtp_layers_of_a_puzzle_have_experts_of_their_own() -> None:
    mtp = [{"block_type": "attention"}, moe_block(320, 6)]
    model = read(**PUZZLE, mtp_block_configs=mtp, num_nextn_predict_layers=2)
    assert (model.mtp_pattern, model.mtp_steps) == ("*E", 2)
    ups = [
        g for g in model.tensors() if g.template.startswith("mtp.") and "{}.up_proj" in g.template
    ]
    assert [g.shape[0] for g in ups] == [320, 320]
    assert model.moe is not None
    assert model.moe.width == 320, "the largest"


@pytest.mark.parametrize(
    ("blocks", "field", "says"),
    [
        ([{"block_type": "conv"}], "block_configs", "must list layer types"),
        ([{}], "block_configs", "must list layer types"),
        (["mamba"], "block_configs", "must be a list of objects"),
        ({"block_type": "mamba"}, "block_configs", "must be a list of objects"),
        ([{"block_type": "moe"}], r"block_configs[0].num_experts_per_tok", "is missing"),
        ([moe_block(64, 13)], r"block_configs[0].num_experts_per_tok", "exceeds 12 experts"),
        ([moe_block(64, 2.5)], r"block_configs[0].num_experts_per_tok", "must be a whole number"),
    ],
)
def test_blocks_that_cannot_be_understood(blocks: Any, field: str, says: str) -> None:
    with pytest.raises(BadInputError, match=rf"config\.json: `{re.escape(field)}` .*{says}"):
        read(**{**PUZZLE, "block_configs": blocks})


@pytest.mark.parametrize("own", [{"ssm_state_size": 96}, {"no_op": True}])
def test_blocks_that_differ_in_more_than_experts_are_refused(own: dict[str, Any]) -> None:
    blocks = [{"block_type": "mamba"} | own, moe_block(64, 2)]
    with pytest.raises(RefusedError, match=r"`block_configs\[0\]` has its own .*rule: puzzle"):
        read(**{**PUZZLE, "block_configs": blocks})
    same = [{"block_type": "mamba", "ssm_state_size": config()["ssm_state_size"]}, moe_block(64, 2)]
    assert read(**{**PUZZLE, "block_configs": same}).pattern == "ME"


# -- Nested configurations ------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["llm_config", "text_config", "language_config"])
def test_a_nested_configuration_is_read_with_what_is_around_it(key: str) -> None:
    inner = config(dtype=None, torch_dtype=REMOVE)
    whole = {"architectures": ["Some_VL"], key: inner, "torch_dtype": "bfloat16",
             "quantization_config": {"quant_algo": "FP8"}}  # fmt: skip
    model = read_model(whole, "x")
    assert replace(model, planned_only=None) == read()
    assert model.planned_only is not None
    assert model.planned_only.rule == "language-model"
    assert model.config["torch_dtype"] == "bfloat16"
    assert model.config["quantization_config"] == {"quant_algo": "FP8"}


def test_a_field_of_a_nested_configuration_is_named_with_its_place() -> None:
    whole = {"architectures": ["Some_VL"], "llm_config": config(hidden_size="wide")}
    with pytest.raises(BadInputError, match=r"config\.json: `llm_config\.hidden_size` must be"):
        read_model(whole, "x")


@pytest.mark.parametrize("inner", [{"model_type": "llama"}, {}, [1], None])
def test_a_nested_model_of_another_family_is_refused(inner: Any) -> None:
    with pytest.raises(RefusedError, match="the architecture Some_VL is not supported"):
        read_model({"architectures": ["Some_VL"], "text_config": inner}, "x")


# -- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"model_type": "llama"}, "model_type", "contradicts NemotronHForCausalLM"),
        ({"num_hidden_layers": 8}, "num_hidden_layers", "the pattern has"),
        ({"layers_block_type": ["mamba", "moe"]}, "layers_block_type", "contradicts"),
        ({**MTP, "mtp_layers_block_type": ["moe"]}, "mtp_layers_block_type", "contradicts"),
        ({"mtp_hybrid_override_pattern": "*X"}, "mtp_hybrid_override_pattern", "letters"),
        (
            {"mtp_hybrid_override_pattern": "*E"},
            "num_nextn_predict_layers",
            "is missing, but `mtp_hybrid_override_pattern`",
        ),
        (
            {"mtp_layers_block_type": ["moe"]},
            "num_nextn_predict_layers",
            "is missing, but `mtp_layers_block_type`",
        ),
        ({"num_nextn_predict_layers": 1}, "mtp_hybrid_override_pattern", "is missing"),
        (MTP | {"num_nextn_predict_layers": 501}, "num_nextn_predict_layers", "makes over 1000"),
        ({"head_dim": REMOVE, "num_attention_heads": 6}, "num_attention_heads", "must divide"),
        ({"num_attention_heads": REMOVE}, "num_attention_heads", "is missing"),
        ({"num_key_value_heads": REMOVE}, "num_key_value_heads", "is missing"),
        ({"num_key_value_heads": 3}, "num_key_value_heads", "must divide"),
        ({"mamba_num_heads": REMOVE}, "mamba_num_heads", "is missing"),
        ({"n_groups": 3}, "n_groups", "must divide `mamba_num_heads`"),
        ({"mamba_proj_bias": True}, "mamba_proj_bias", "contradicts `use_bias`"),
        ({**DENSE, "intermediate_size": REMOVE}, "intermediate_size", "is missing"),
        (
            {
                "mtp_hybrid_override_pattern": "*-",
                "num_nextn_predict_layers": 1,
                "intermediate_size": REMOVE,
            },
            "intermediate_size",
            "is missing",
        ),
        ({"mlp_hidden_act": "silu"}, "mlp_hidden_act", "is silu; only relu2"),
        ({"mlp_hidden_act": None}, "mlp_hidden_act", "is None"),
        ({"n_routed_experts": REMOVE}, "n_routed_experts", "is missing"),
        ({"num_experts_per_tok": REMOVE}, "num_experts_per_tok", "is missing"),
        ({"moe_intermediate_size": REMOVE}, "moe_intermediate_size", "is missing"),
        ({"n_shared_experts": REMOVE}, "n_shared_experts", "is missing"),
        ({"n_shared_experts": 2}, "n_shared_experts", "at most 1"),
        (
            {"moe_shared_expert_intermediate_size": REMOVE},
            "moe_shared_expert_intermediate_size",
            "is missing",
        ),
        ({"moe_latent_size": 0}, "moe_latent_size", "at least 1"),
        ({"num_experts_per_tok": 1000}, "num_experts_per_tok", "exceeds"),
        ({"n_routed_experts": 10, "n_group": 4}, "n_group", "must divide"),
        ({"n_group": 2, "topk_group": 3}, "topk_group", "exceeds `n_group`"),
        (
            {"n_routed_experts": 8, "n_group": 8, "topk_group": 1, "num_experts_per_tok": 2},
            "num_experts_per_tok",
            r"exceeds the 1 experts of `topk_group` \(1\)",
        ),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon", "between 0 and 1"),
        ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon", "between 0 and 1"),
        ({"quantization_config": [1]}, "quantization_config", "must be an object"),
    ],
)
def test_what_is_missing_or_contradicts_is_named(
    changes: dict[str, Any], field: str, says: str
) -> None:
    with refused(field, says):
        read(**changes)


def test_experts_may_be_left_out_where_no_layer_has_any() -> None:
    moe = ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts")
    assert read(**DENSE, intermediate_size=64, **dict.fromkeys(moe, REMOVE)).moe is None
    with refused("n_shared_experts"):
        read(**DENSE, **MTP, intermediate_size=64, **dict.fromkeys(moe, REMOVE))


# -- What holds of every model that is read -------------------------------------------------------


def requires_sums(model: Model) -> None:
    names = [name for group in model.tensors() for name in group.names()]
    assert len(names) == len(set(names)) == sum(group.count for group in model.tensors())
    assert model.parameters_total == sum(group.parameters for group in model.tensors())
    assert model.parameters_total >= model.parameters_active > 0
    assert all(side > 0 for group in model.tensors() for side in group.shape)
    assert model.bytes == sum(group.bytes for group in model.tensors())


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_packaged_models_add_up(name: str) -> None:
    model = known_model(name)
    assert model is not None
    requires_sums(model)


SIZES = st.integers(1, 40)


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """A consistent configuration, its layers spelled in one of two ways."""
    kinds = draw(st.sampled_from([None, KINDS, KINDS_5]))

    def layers(field: str, types: str, text: str) -> dict[str, Any]:
        return {field: text} if kinds is None else {types: [kinds[letter] for letter in text]}

    groups, kv_heads, routing_groups, in_group = (draw(st.integers(1, 4)) for _ in range(4))
    chosen = draw(st.integers(1, routing_groups))
    values = {
        **config(hybrid_override_pattern=REMOVE, num_hidden_layers=REMOVE),
        **layers(
            "hybrid_override_pattern",
            "layers_block_type",
            draw(st.text("ME*-", min_size=1, max_size=8)),
        ),
        **{name: draw(SIZES) for name in (
            "hidden_size", "vocab_size", "intermediate_size", "head_dim", "mamba_head_dim",
            "ssm_state_size", "conv_kernel", "moe_intermediate_size",
            "moe_shared_expert_intermediate_size", "max_position_embeddings",
        )},
        **{name: draw(st.booleans()) for name in (
            "tie_word_embeddings", "mlp_bias", "attention_bias", "use_conv_bias",
        )},
        "n_groups": groups,
        "mamba_num_heads": groups * draw(st.integers(1, 4)),
        "num_key_value_heads": kv_heads,
        "num_attention_heads": kv_heads * draw(st.integers(1, 4)),
        "n_group": routing_groups,
        "topk_group": chosen,
        "n_routed_experts": routing_groups * in_group,
        "num_experts_per_tok": draw(st.integers(1, chosen * in_group)),
        "n_shared_experts": draw(st.integers(0, 1)),
        "moe_latent_size": draw(st.none() | SIZES),
    }  # fmt: skip
    values["use_bias"] = values["mamba_proj_bias"] = draw(st.booleans())
    mtp = draw(st.text("ME*-", max_size=3))
    if mtp:
        values |= layers("mtp_hybrid_override_pattern", "mtp_layers_block_type", mtp)
        values["num_nextn_predict_layers"] = draw(st.integers(0, 3))
    return values


@given(configurations())
def test_every_consistent_configuration_is_read_and_adds_up(values: dict[str, Any]) -> None:
    requires_sums(read_model(values, "x"))


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 300), st.floats(-2, 2), st.just([]), st.just({}),
    st.text("ME*-x", max_size=6),
    st.lists(st.sampled_from([*KINDS.values(), *KINDS_5.values(), "x"]), max_size=4),
)  # fmt: skip


@given(configurations(), st.data())
def test_any_other_is_refused_by_a_field_of_its_own(values: dict[str, Any], data: Any) -> None:
    known = {*values, *MTP, "mtp_layers_block_type", "layers_block_type", "num_hidden_layers"}
    for field in data.draw(st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=3)):
        values[field] = data.draw(ANYTHING)
    try:
        model = read_model(values, "x")
    except BadInputError as error:
        named = re.search(r"config\.json: `(\w+)` ", str(error))
        assert named is not None
    except RefusedError as error:
        assert "rule: architecture" in str(error)
    else:
        requires_sums(model)


def test_an_empty_list_of_widths_is_refused_by_field() -> None:
    with pytest.raises(BadInputError, match="`intermediate_size` lists 0 numbers"):
        read_model(config(intermediate_size=[]), "some")
