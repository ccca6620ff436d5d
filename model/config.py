"""Read a Nemotron-H `config.json` into a `Model`, refusing what lacks or contradicts itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from ..core.errors import RefusedError
from ..runtime.untrusted import brief
from .architecture import ARCHITECTURE, Attention, Mamba, Model, Moe, PlannedOnly
from .fields import MAX_LAYERS, MAX_NUMBER, Fields

MODEL_TYPE: Final = "nemotron_h"

HEADLESS: Final = "NemotronHModel"
"""The class without output head. Some trainers name it although they save the head, too."""

PUZZLE: Final = "NemotronHPuzzleForCausalLM"
PUZZLE_TYPE: Final = "nemotron_h_puzzle"
"""A model whose layers were chosen one by one, so that their experts differ."""

MODEL_TYPES: Final[Mapping[str, str]] = {
    ARCHITECTURE: MODEL_TYPE, HEADLESS: MODEL_TYPE, PUZZLE: PUZZLE_TYPE,
}  # fmt: skip
"""The classes that are read, and the `model_type` of each."""

NESTED: Final = ("llm_config", "text_config", "language_config")
"""Where models with encoders for images or sound keep the configuration of their language model."""

SHARED: Final = ("torch_dtype", "dtype", "quantization_config", "tie_word_embeddings")
"""Fields around a nested configuration that hold for it, too, unless it has its own."""

MAX_EXPERT_BLOCKS: Final = 100_000
"""Bound on what a configuration may claim, over a dozen times Nemotron 3 Super's (40 layers with
512 experts): what is planned per layer and expert stays small."""

PATTERN: Final = ("hybrid_override_pattern", "layers_block_type", "block_configs")
MTP_PATTERN: Final = ("mtp_hybrid_override_pattern", "mtp_layers_block_type", "mtp_block_configs")
"""Where layers are listed: by letters, by the names of their kinds, or one block each."""

BLOCK_FIELDS: Final = frozenset({
    "block_type", "moe_intermediate_size", "n_routed_experts", "num_experts_per_tok",
    "moe_latent_size", "moe_shared_expert_intermediate_size", "n_shared_experts",
})  # fmt: skip
"""What may differ between the blocks of a model."""

NUMBERS_BESIDE: Final = ("chunk_size", "bos_token_id", "eos_token_id", "pad_token_id", "expand")
"""Whole numbers that decide no shape. They are respelled like the others, for the sake of engines
that read the configuration."""

ACTIVATION: Final = "relu2"
"""The family's activation. Its experts and MLPs have no gate; with another one they might."""

EPSILON: Final = 1e-5
"""Of the norms, where a configuration does not say (transformers' `NemotronHConfig`)."""

SERVED_DIRECTLY: Final = "trtllm-serve or vllm serve with that checkpoint directly"


def read_model(config: Mapping[str, Any], name: str) -> Model:
    """Read `config` (a parsed `config.json`) as the model `name`.

    Takes what NVIDIA's repositories, trainers, and transformers 4 and 5 write: layers as a pattern,
    as a list of kinds or of blocks, with or without their count, and a language model's
    configuration inside that of a model with encoders. What decides no tensor's shape is not looked
    at. The model's own `config` has the usual spelling.
    Raises `RefusedError` for another architecture, `BadInputError` naming the field otherwise.
    """
    inside = _nested(config)
    if not inside:
        return _read(Fields(config, name))
    whole = _class_names(config)
    own = config[inside]
    around = {key: config[key] for key in SHARED if key in config and own.get(key) is None}
    model = _read(Fields({**own, **around}, name, inside))
    why = PlannedOnly(
        "language-model",
        f"Only the language model of {whole} (`{inside}`) is planned. Its encoders for images or "
        "sound are not counted, and no bundle can hold them.",
        (
            f"{SERVED_DIRECTLY}, which serve it whole",
            f"for the language model alone, a copy of the directory with `{inside}` as its "
            "config.json, from which the encoders are left out",
        ),
    )
    note = f"the language model of {whole} (`{inside}`) is described; its encoders are not"
    return replace(model, planned_only=why, notes=(note, *model.notes))


def _nested(config: Mapping[str, Any]) -> str:
    """The field with the language model's configuration, where `config` is that of a whole."""
    if any(config.get(field) for field in PATTERN):
        return ""
    for field in NESTED:
        inner = config.get(field)
        if not isinstance(inner, dict):
            continue
        listed = inner.get("architectures")
        if inner.get("model_type") in MODEL_TYPES.values() or (
            isinstance(listed, list) and any(name in MODEL_TYPES for name in listed)
        ):
            return field
    return ""


def _class_names(config: Mapping[str, Any]) -> str:
    """What `config` names as the model's class, for people."""
    listed = config.get("architectures") or config.get("model_type") or "(none)"
    return ", ".join(map(brief, listed[:3])) if isinstance(listed, list) else brief(listed)


def _read(fields: Fields) -> Model:
    architecture = _architecture(fields)
    pattern = fields.pattern(*PATTERN)
    if not pattern:
        fields.fail(PATTERN[0], f"is missing (so is `{PATTERN[1]}`)")
    layers = fields.integer("num_hidden_layers", default=len(pattern), most=MAX_LAYERS)
    if layers != len(pattern):
        fields.fail("num_hidden_layers", f"is {layers}, but the pattern has {len(pattern)} layers")
    mtp, steps = _mtp(fields)
    everything = pattern + mtp * steps
    _require_activation(fields)
    fields.same_in_all("intermediate_size", "-", pattern)
    for field in NUMBERS_BESIDE:
        if isinstance(fields.config.get(field), float):
            fields.integer(field, least=-1, most=MAX_NUMBER)
    hidden = fields.integer("hidden_size")
    moes = _moes(fields, PATTERN[2], pattern, hidden)
    mtp_moes = _moes(fields, MTP_PATTERN[2], mtp, hidden)
    _require_bounded(fields, (*moes, *mtp_moes * steps))
    alike = len({*moes, *mtp_moes}) <= 1
    model = Model(
        name=fields.source,
        pattern=pattern,
        mtp_pattern=mtp,
        mtp_steps=steps,
        hidden_size=hidden,
        vocab_size=fields.integer("vocab_size", most=2**24),
        max_positions=fields.integer("max_position_embeddings", most=MAX_NUMBER),
        tied=fields.flag("tie_word_embeddings", False),
        mlp_width=fields.integer("intermediate_size", default=None if "-" in everything else 0),
        mlp_bias=fields.flag("mlp_bias", False),
        norm_epsilon=fields.positive(
            "layer_norm_epsilon", "rms_norm_eps", "norm_eps", default=EPSILON
        ),
        mamba=_mamba(fields),
        attention=_attention(fields, hidden),
        moe=max((*moes, *mtp_moes), key=lambda moe: moe.routed_values, default=None),
        config={},
        layer_moes=() if alike else moes,
        mtp_moes=() if alike else mtp_moes,
        planned_only=_never_built(architecture, alike),
    )
    notes = (*fields.notes, *([] if alike else [_differing(moes)]))
    return replace(model, config={**fields.config, **fields.respelled}, notes=notes)


def _never_built(architecture: str, alike: bool) -> PlannedOnly | None:
    if architecture != PUZZLE and alike:
        return None
    return PlannedOnly(
        "puzzle",
        f"The layers of {architecture} were chosen one by one and differ in their experts. "
        "nemo-deploy quantizes and serves models whose layers of experts are alike.",
        (SERVED_DIRECTLY,),
    )


def _differing(moes: tuple[Moe, ...]) -> str:
    """What is different between layers of experts, in words."""
    ranges = {
        "experts": {moe.num_experts for moe in moes},
        "per token": {moe.top_k for moe in moes},
        "width": {moe.width for moe in moes},
    }
    shown = [f"{name} {min(seen)} to {max(seen)}" for name, seen in ranges.items() if len(seen) > 1]
    return f"layers of experts differ ({', '.join(shown) or 'in a shared width'})"


def _architecture(fields: Fields) -> str:
    """The class of the model, by its name or, where there is none, by `model_type`."""
    listed, kind = fields.config.get("architectures"), fields.config.get("model_type")
    names = [listed] if isinstance(listed, str) else listed or []
    known = [name for name in MODEL_TYPES if isinstance(names, list) and name in names]
    by_type = [name for name, own in MODEL_TYPES.items() if own == kind and name != HEADLESS]
    if not names and kind is None:
        fields.fail("architectures", "is missing (so is `model_type`)")
    if not (known or (not names and by_type)):
        raise RefusedError(
            f"{fields.source}: the architecture {_class_names(fields.config)} is not supported "
            f"(rule: architecture). This tool exists for {ARCHITECTURE}: Nemotron 3, Nemotron Nano "
            f"2 and Nemotron-H. What works instead: {SERVED_DIRECTLY}."
        )
    architecture = (known or by_type)[0]
    if kind is not None and kind != MODEL_TYPES[architecture]:
        fields.fail("model_type", f"is {brief(kind)}, which contradicts {architecture}")
    usual = ARCHITECTURE if architecture == HEADLESS else architecture
    if names != [usual] and usual not in names:
        shown = f"is {_class_names({'architectures': names})}" if names else "is missing"
        fields.notes.append(f"{fields.name('architectures')} {shown}: it is read as {usual}")
    if listed != [usual]:
        fields.respelled["architectures"] = [usual]
    if kind is None:
        fields.respelled["model_type"] = MODEL_TYPES[architecture]
    quantization = fields.config.get("quantization_config")
    if quantization is not None and not isinstance(quantization, dict):
        fields.fail("quantization_config", f"must be an object, got {brief(quantization)}")
    return usual


def _require_activation(fields: Fields) -> None:
    activation = fields.config.get("mlp_hidden_act", ACTIVATION)
    if activation != ACTIVATION:
        fields.fail(
            "mlp_hidden_act",
            f"is {brief(activation)}; only {ACTIVATION} is known, whose MLPs have no gate",
        )


def _mtp(fields: Fields) -> tuple[str, int]:
    """Layers of one step of multi-token prediction, and the number of steps.

    transformers writes the layers, and 0 steps, for a model that has none.
    """
    pattern, counted = fields.pattern(*MTP_PATTERN), "num_nextn_predict_layers"
    steps = fields.integer(counted, default=0, least=0, most=MAX_LAYERS)
    if pattern and not fields.has(counted):
        fields.fail(counted, f"is missing, but `{_present(fields, MTP_PATTERN)}` lists layers")
    if steps and not pattern:
        fields.fail(
            MTP_PATTERN[0], f"is missing (so is `{MTP_PATTERN[1]}`), but `{counted}` is {steps}"
        )
    if len(pattern) * steps > MAX_LAYERS:
        fields.fail(counted, f"makes over {MAX_LAYERS} layers")
    return (pattern, steps) if steps else ("", 0)


def _present(fields: Fields, spellings: tuple[str, ...]) -> str:
    return next(field for field in spellings if fields.config.get(field))


def _mamba(fields: Fields) -> Mamba:
    mamba = Mamba(
        num_heads=fields.integer("mamba_num_heads"),
        head_dim=fields.integer("mamba_head_dim"),
        n_groups=fields.integer("n_groups", "mamba_n_groups", "mamba_num_groups"),
        state_size=fields.integer("ssm_state_size", "mamba_state_dim", "mamba_d_state"),
        conv_kernel=fields.integer("conv_kernel", "mamba_d_conv"),
        conv_bias=fields.flag("use_conv_bias", True),
        proj_bias=fields.flag("use_bias", False),
    )
    if mamba.num_heads % mamba.n_groups:
        fields.fail("n_groups", f"({mamba.n_groups}) must divide `mamba_num_heads`")
    if fields.flag("mamba_proj_bias", mamba.proj_bias) != mamba.proj_bias:
        fields.fail("mamba_proj_bias", f"contradicts `use_bias` ({str(mamba.proj_bias).lower()})")
    return mamba


def _attention(fields: Fields, hidden: int) -> Attention:
    heads = fields.integer("num_attention_heads")
    spellings = ("head_dim", "attention_head_dim")
    if not any(map(fields.has, spellings)) and hidden % heads:
        fields.fail(
            "num_attention_heads", f"({heads}) must divide `hidden_size` where no `head_dim` is"
        )
    # transformers takes 8 for an absent one and as many as heads for null: only null is clear.
    if "num_key_value_heads" not in fields.config:
        fields.fail("num_key_value_heads", "is missing")
    attention = Attention(
        num_heads=heads,
        num_kv_heads=fields.integer("num_key_value_heads", default=heads),
        head_dim=fields.integer(*spellings, default=hidden // heads),
        bias=fields.flag("attention_bias", False),
    )
    if heads % attention.num_kv_heads:
        fields.fail("num_key_value_heads", f"({attention.num_kv_heads}) must divide {heads} heads")
    return attention


def _moes(fields: Fields, blocks_field: str, pattern: str, hidden: int) -> tuple[Moe, ...]:
    """The experts of each layer of `pattern` that has any."""
    if "E" not in pattern:
        return ()
    blocks = fields.blocks(blocks_field)
    if not blocks:
        return (_moe(fields, hidden),) * pattern.count("E")
    return tuple(
        _moe(block, hidden)
        for block, letter in zip(_block_fields(fields, blocks_field), pattern, strict=True)
        if letter == "E"
    )


def _block_fields(fields: Fields, blocks_field: str) -> Iterator[Fields]:
    """The fields of each block: its own, and those of the whole that it does not have.

    Raises `RefusedError` for a block that differs in more than its experts.
    """
    for index, block in enumerate(fields.blocks(blocks_field)):
        place = f"{blocks_field}[{index}]"
        own = {key: value for key, value in block.items() if value is not None}
        for key in own.keys() - BLOCK_FIELDS:
            if own[key] != fields.config.get(key):
                raise RefusedError(
                    f"{fields.source}: config.json: {fields.name(place)} has its own "
                    f"{brief(key)!r}, and layers that differ in more than their experts are not "
                    f"supported (rule: puzzle). What works instead: {SERVED_DIRECTLY}."
                )
        yield Fields({**fields.config, **own}, fields.source, fields.name(place).strip("`"))


def _moe(fields: Fields, hidden: int) -> Moe:
    if "n_shared_experts" not in fields.config:
        fields.fail("n_shared_experts", "is missing")
    # transformers makes one, whatever the number; vLLM multiplies the width by it.
    num_shared = fields.integer("n_shared_experts", default=0, least=0, most=1)
    moe = Moe(
        num_experts=fields.integer("n_routed_experts"),
        top_k=fields.integer("num_experts_per_tok"),
        width=fields.integer("moe_intermediate_size"),
        shared_width=fields.integer(
            "moe_shared_expert_intermediate_size", default=None if num_shared else 0
        ),
        num_shared=num_shared,
        latent=fields.integer("moe_latent_size", default=hidden),
        has_latent=fields.has("moe_latent_size"),
    )
    if moe.top_k > moe.num_experts:
        fields.fail("num_experts_per_tok", f"({moe.top_k}) exceeds {moe.num_experts} experts")
    _require_routable(fields, moe)
    return moe


def _require_bounded(fields: Fields, moes: tuple[Moe, ...]) -> None:
    if sum(moe.num_experts for moe in moes) > MAX_EXPERT_BLOCKS:
        most = max(moe.num_experts for moe in moes)
        fields.fail(
            "n_routed_experts",
            f"({most}) makes over {MAX_EXPERT_BLOCKS} experts in {len(moes)} layers",
        )


def _require_routable(fields: Fields, moe: Moe) -> None:
    """Each token chooses `topk_group` of `n_group` groups, and its experts among theirs."""
    groups = fields.integer("n_group", default=1)
    if moe.num_experts % groups:
        fields.fail("n_group", f"({groups}) must divide {moe.num_experts} experts")
    chosen = fields.integer("topk_group", default=1)
    if chosen > groups:
        fields.fail("topk_group", f"({chosen}) exceeds `n_group` ({groups})")
    among = chosen * (moe.num_experts // groups)
    if moe.top_k > among:
        fields.fail(
            "num_experts_per_tok",
            f"({moe.top_k}) exceeds the {among} experts of `topk_group` ({chosen}) groups",
        )
