"""Read a Nemotron-H `config.json` into a `Model`, refusing what lacks or contradicts itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

from ..core.errors import BadInputError, RefusedError
from ..runtime.untrusted import brief
from .architecture import ARCHITECTURE, Attention, Mamba, Model, Moe

LAYER_LETTERS: Final[Mapping[str, str]] = {
    "mamba": "M", "mamba2": "M", "linear_attention": "M",
    "moe": "E", "attention": "*", "full_attention": "*", "mlp": "-",
}  # fmt: skip
"""What `layers_block_type` calls a layer (several spellings exist), and its pattern letter."""

MODEL_TYPE: Final = "nemotron_h"

MAX_NUMBER: Final = 2**31 - 1
MAX_WIDTH: Final = 2**20
MAX_LAYERS: Final = 1_000
MAX_EXPERT_BLOCKS: Final = 100_000
"""Bounds on what a configuration may claim, each over a dozen times Nemotron 3 Super's (hidden size
4096, 88 layers, 40 of them with 512 experts): what is planned per layer and expert stays small."""


PATTERN: Final = ("hybrid_override_pattern", "layers_block_type")
MTP_PATTERN: Final = ("mtp_hybrid_override_pattern", "mtp_layers_block_type")
"""Where layers are listed: by letters, or by the names of their kinds."""

ACTIVATION: Final = "relu2"
"""The family's activation. Its experts and MLPs have no gate; with another one they might."""

EPSILON: Final = 1e-5
"""Of the norms, where a configuration does not say (transformers' `NemotronHConfig`)."""


class _Fields:
    """Typed access to a configuration: each failure names the field.

    Where several names are given they are spellings of one thing. Whichever is present is read,
    null is as good as absent, and two that differ are a contradiction.
    """

    def __init__(self, config: Mapping[str, Any], source: str) -> None:
        self.config, self.source = config, source

    def fail(self, field: str, why: str) -> NoReturn:
        raise BadInputError(f"{self.source}: config.json: `{field}` {why}")

    def integer(
        self, *fields: str, default: int | None = None, least: int = 1, most: int = MAX_WIDTH
    ) -> int:
        values = self._spelled(fields)
        for field, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                why = f"must be a whole number of at least {least} and at most {most}"
                self.fail(field, f"{why}, got {brief(value)}")
        return int(self._agreed(fields, values, default))

    def positive(self, *fields: str, default: float) -> float:
        """A number between 0 and 1, as a norm's epsilon is."""
        values = self._spelled(fields)
        for field, value in values.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 < value < 1:
                self.fail(field, f"must be a number between 0 and 1, got {brief(value)}")
        return float(self._agreed(fields, values, default))

    def _spelled(self, fields: tuple[str, ...]) -> dict[str, Any]:
        return {field: self.config[field] for field in fields if self.has(field)}

    def _agreed(self, fields: tuple[str, ...], values: dict[str, Any], default: Any) -> Any:
        """The one value of all spellings, or `default`; without either the field is missing."""
        if not values:
            if default is None:
                self.fail(fields[0], "is missing")
            return default
        first, *others = values
        for other in others:
            if values[other] != values[first]:
                self.fail(other, f"({values[other]}) contradicts `{first}` ({values[first]})")
        return values[first]

    def has(self, field: str) -> bool:
        return self.config.get(field) is not None

    def flag(self, field: str, default: bool) -> bool:
        value = self.config.get(field, default)
        if not isinstance(value, bool):
            self.fail(field, f"must be true or false, got {brief(value)}")
        return value

    def pattern(self, field: str, types_field: str) -> str:
        """Layer letters, from a pattern string or from a list of block types."""
        text, types = self.config.get(field), self.config.get(types_field)
        letters: str | None = None
        if types is not None:
            known = isinstance(types, list) and all(
                isinstance(name, str) and name in LAYER_LETTERS for name in types
            )
            if not known:
                self.fail(types_field, f"must list layer types out of {', '.join(LAYER_LETTERS)}")
            letters = "".join(LAYER_LETTERS[name] for name in types)
        if text is None:
            text = letters or ""
        if not isinstance(text, str) or set(text) - set("ME*-"):
            self.fail(field, "must consist of the letters M, E, * and -")
        if letters is not None and letters != text:
            self.fail(types_field, f"contradicts `{field}`")
        if len(text) > MAX_LAYERS:
            which = field if letters is None else types_field
            self.fail(which, f"has {len(text)} layers; at most {MAX_LAYERS} are planned for")
        return text


def read_model(config: Mapping[str, Any], name: str) -> Model:
    """Read `config` (a parsed `config.json`) as the model `name`.

    Takes what NVIDIA's repositories and transformers 4 and 5 write: layers as a pattern or as a
    list of kinds, with or without their count. What decides no tensor's shape is not looked at.
    Raises `RefusedError` for another architecture, `BadInputError` naming the field otherwise.
    """
    fields = _Fields(config, name)
    _require_architecture(fields)
    pattern = fields.pattern(*PATTERN)
    if not pattern:
        fields.fail(PATTERN[0], f"is missing (so is `{PATTERN[1]}`)")
    layers = fields.integer("num_hidden_layers", default=len(pattern), most=MAX_LAYERS)
    if layers != len(pattern):
        fields.fail("num_hidden_layers", f"is {layers}, but the pattern has {len(pattern)} layers")
    mtp, steps = _mtp(fields)
    everything = pattern + mtp * steps
    _require_activation(fields)
    hidden = fields.integer("hidden_size")
    return Model(
        name=name,
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
        moe=_moe(fields, hidden, everything.count("E")) if "E" in everything else None,
        config=config,
    )


def _require_architecture(fields: _Fields) -> None:
    architectures = fields.config.get("architectures")
    if architectures is None:
        fields.fail("architectures", "is missing")
    if not isinstance(architectures, list) or ARCHITECTURE not in architectures:
        listed = architectures if isinstance(architectures, list) else [architectures]
        names = ", ".join(map(brief, listed[:3])) or "(none)"
        raise RefusedError(
            f"{fields.source}: the architecture {names} is not supported (rule: architecture). "
            f"This tool exists for {ARCHITECTURE}: Nemotron 3, Nemotron Nano 2 and Nemotron-H. "
            "What works instead: trtllm-serve or vllm serve with that checkpoint directly."
        )
    kind = fields.config.get("model_type", MODEL_TYPE)
    if kind != MODEL_TYPE:
        fields.fail("model_type", f"is {brief(kind)}, which contradicts {ARCHITECTURE}")
    quantization = fields.config.get("quantization_config")
    if quantization is not None and not isinstance(quantization, dict):
        fields.fail("quantization_config", f"must be an object, got {brief(quantization)}")


def _require_activation(fields: _Fields) -> None:
    activation = fields.config.get("mlp_hidden_act", ACTIVATION)
    if activation != ACTIVATION:
        fields.fail(
            "mlp_hidden_act",
            f"is {brief(activation)}; only {ACTIVATION} is known, whose MLPs have no gate",
        )


def _mtp(fields: _Fields) -> tuple[str, int]:
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


def _present(fields: _Fields, spellings: tuple[str, str]) -> str:
    return next(field for field in spellings if fields.has(field))


def _mamba(fields: _Fields) -> Mamba:
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


def _attention(fields: _Fields, hidden: int) -> Attention:
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


def _moe(fields: _Fields, hidden: int, layers: int) -> Moe:
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
    if moe.num_experts * layers > MAX_EXPERT_BLOCKS:
        fields.fail(
            "n_routed_experts",
            f"({moe.num_experts}) makes over {MAX_EXPERT_BLOCKS} experts in {layers} layers",
        )
    if moe.top_k > moe.num_experts:
        fields.fail("num_experts_per_tok", f"({moe.top_k}) exceeds {moe.num_experts} experts")
    _require_routable(fields, moe)
    return moe


def _require_routable(fields: _Fields, moe: Moe) -> None:
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
