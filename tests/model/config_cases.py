"""Configurations as tools write them, as changes of `tiny`'s. `docs/checkpoints.md` lists them,
too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from nemotron_deploy.tests.model.bent import VECTOR, Case, Maker, added, both, config, renamed

Fields = dict[str, Any]

KINDS_5: Final = {"M": "linear_attention", "E": "moe", "*": "full_attention"}


def rewritten(change: Callable[[Fields], Fields]) -> Maker:
    """`config.json` as `change` makes it of the old fields."""

    def make(path: Path) -> None:
        old = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(change(old)))

    return make


def dropped(*fields: str) -> Maker:
    return rewritten(lambda old: {key: old[key] for key in old if key not in fields})


def blocks(change: Callable[[int, Fields], Fields]) -> Callable[[Fields], Fields]:
    """The fields of a Puzzle, each layer of experts as `change` makes it of its number and what
    they have in common."""
    common = ("moe_intermediate_size", "num_experts_per_tok", "n_routed_experts")

    def puzzle(old: Fields) -> Fields:
        kinds = {"M": "mamba", "E": "moe", "*": "attention"}
        rows: list[Fields] = [{"block_type": kinds[k]} for k in old["hybrid_override_pattern"]]
        experts = [row for row in rows if row["block_type"] == "moe"]
        for number, row in enumerate(experts):
            row |= change(number, {key: old[key] for key in common})
        kept = {key: old[key] for key in old if key not in (*common, "hybrid_override_pattern")}
        return kept | {
            "architectures": ["NemotronHPuzzleForCausalLM"],
            "model_type": "nemotron_h_puzzle",
            "block_configs": rows,
        }

    return puzzle


def omni(key: str) -> Maker:
    """A model with encoders, whose language model's configuration is below `key`."""

    def nested(old: Fields) -> Fields:
        name = "NemotronH_Nano_Omni_Reasoning_V3"
        inner = {field: old[field] for field in old if field != "torch_dtype"}
        return {
            "architectures": [name],
            "model_type": name,
            key: inner,
            "vision_config": {"model_type": "radio"},
            "sound_config": None,
            "torch_dtype": "bfloat16",
        }

    return both(
        rewritten(nested),
        renamed(lambda name: "language_model." + name),
        added({"vision_model.blocks.0.weight": VECTOR, "sound_encoder.x.weight": VECTOR}),
    )


CASES: Final = (
    Case("`architectures` null or missing, `model_type` given", config(architectures=None),
         "converted", "`architectures` is missing: it is read as NemotronHForCausalLM"),
    Case("`architectures` names the headless class", config(architectures=["NemotronHModel"]),
         "converted", "`architectures` is NemotronHModel: it is read as NemotronHForCausalLM"),
    Case("`architectures` names two classes of the family",
         config(architectures=["NemotronHForCausalLM", "NemotronHModel"]), "read"),
    Case("Neither `architectures` nor `model_type`", dropped("architectures", "model_type"),
         "refused", "`architectures` is missing (so is `model_type`)"),
    Case("Whole numbers written as `12.0`",
         config(n_routed_experts=12.0, num_experts_per_tok=2.0, eos_token_id=2.0),
         "converted", "`n_routed_experts` is written with a decimal point: it is read as 12"),
    Case("Numbers written as text", config(hidden_size="128"), "refused",
         "`hidden_size` must be a whole number"),
    Case("`intermediate_size` as a list of equal widths", config(intermediate_size=[192]),
         "converted", "`intermediate_size` lists the same number for every layer"),
    Case("`intermediate_size` as a list of other widths",
         config(intermediate_size=[192, 128, 192, 192, 192, 192, 192],
                hybrid_override_pattern="M--*EME"),
         "refused", "`intermediate_size` differs between layers, which is not supported"),
    Case("Layers by transformers 5's names, without their count, with nulls and infinity",
         rewritten(lambda old: {
             key: old[key] for key in old
             if key not in ("hybrid_override_pattern", "num_hidden_layers", "torch_dtype")
         } | {
             "layers_block_type": [KINDS_5[kind] for kind in old["hybrid_override_pattern"]],
             "dtype": "bfloat16", "moe_latent_size": None, "rope_parameters": None,
             "num_nextn_predict_layers": 0, "mtp_layers_block_type": ["full_attention", "moe"],
             "time_step_limit": [0.0, {"__float__": "Infinity"}],
         }), "read"),
    Case("Bars between pipeline stages in the pattern",
         rewritten(lambda old: old | {
             "hybrid_override_pattern": old["hybrid_override_pattern"][:4] + "|" +
             old["hybrid_override_pattern"][4:]
         }), "converted", "`hybrid_override_pattern` has bars between pipeline stages"),
    Case("Pattern and list of layers that contradict each other",
         config(layers_block_type=["mamba"] * 7), "refused", "`layers_block_type` contradicts"),
    Case("Several end-of-sequence tokens", config(eos_token_id=[2, 11]), "read"),
    Case("`auto_map`, which names code", config(auto_map={"AutoConfig": "x.Y"}), "read"),
    Case("Fields that nemo-deploy does not know", config(some_field={"deep": [1]}), "read"),
    Case("Blocks that are alike, in a plain model",
         rewritten(lambda old: blocks(lambda number, common: common)(old) | {
             "architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h",
         }), "read"),
    Case("A Llama", config(architectures=["LlamaForCausalLM"], model_type="llama"),
         "not supported", "the architecture LlamaForCausalLM is not supported"),
    Case("Omni: the language model in `llm_config`", omni("llm_config"), "planned",
         "language model of NemotronH_Nano_Omni_Reasoning_V3"),
    Case("VL: the language model in `text_config`", omni("text_config"), "planned",
         "language model of NemotronH_Nano_Omni_Reasoning_V3"),
    Case("Puzzle: `block_configs` with experts that differ",
         rewritten(blocks(lambda number, common: common | {"num_experts_per_tok": 2 + number})),
         "planned", "differ in their experts"),
    Case("Puzzle with layers that differ in more than their experts",
         rewritten(blocks(lambda number, common: common | {"mlp_bias": True})),
         "not supported", "has its own 'mlp_bias'"),
)  # fmt: skip
"""`not supported` is refused with exit code 3, by `inspect` and `plan`, too. What is `planned` is
refused so by `quantize` and `build`."""
