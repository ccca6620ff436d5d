"""Read a Nemotron-H `config.json` into a `Model`, refusing what lacks or contradicts itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

from .architecture import ARCHITECTURE, Attention, Mamba, Model, Moe
from .errors import BadInputError, RefusedError
from .untrusted import brief

LAYER_LETTERS: Final[Mapping[str, str]] = {
    "mamba": "M", "mamba2": "M", "linear_attention": "M",
    "moe": "E", "attention": "*", "full_attention": "*", "mlp": "-",
}  # fmt: skip
"""What `layers_block_type` calls a layer (several spellings exist), and its pattern letter."""

MAX_NUMBER: Final = 2**31 - 1
MAX_WIDTH: Final = 2**20
MAX_LAYERS: Final = 1_000
MAX_EXPERT_BLOCKS: Final = 100_000
"""Bounds on what a configuration may claim, each over a dozen times Nemotron 3 Super's (hidden size
4096, 88 layers, 40 of them with 512 experts): what is planned per layer and expert stays small."""


class _Fields:
    """Typed access to a configuration: each failure names the field."""

    def __init__(self, config: Mapping[str, Any], source: str) -> None:
        self.config, self.source = config, source

    def fail(self, field: str, why: str) -> NoReturn:
        raise BadInputError(f"{self.source}: config.json: `{field}` {why}")

    def integer(
        self, *fields: str, default: int | None = None, least: int = 1, most: int = MAX_WIDTH
    ) -> int:
        """The first of `fields` that is present (later ones are older spellings)."""
        for field in fields:
            value = self.config.get(field)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                why = f"must be a whole number of at least {least} and at most {most}"
                self.fail(field, f"{why}, got {brief(value)}")
            return value
        if default is None:
            self.fail(fields[0], "is missing")
        return default

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

    Raises `RefusedError` for another architecture, `BadInputError` naming the field otherwise.
    """
    fields = _Fields(config, name)
    _require_architecture(fields)
    pattern = fields.pattern("hybrid_override_pattern", "layers_block_type")
    if not pattern:
        fields.fail("hybrid_override_pattern", "is missing (so is `layers_block_type`)")
    layers = fields.integer("num_hidden_layers", default=len(pattern), most=MAX_LAYERS)
    if layers != len(pattern):
        fields.fail("num_hidden_layers", f"is {layers}, but the pattern has {len(pattern)} layers")
    mtp = fields.pattern("mtp_hybrid_override_pattern", "mtp_layers_block_type")
    copies = fields.integer("num_nextn_predict_layers", default=0, least=0, most=MAX_LAYERS)
    if len(mtp) * copies > MAX_LAYERS:
        fields.fail("num_nextn_predict_layers", f"makes over {MAX_LAYERS} layers")
    mtp *= copies
    hidden = fields.integer("hidden_size")
    return Model(
        name=name,
        pattern=pattern,
        mtp_pattern=mtp,
        hidden_size=hidden,
        vocab_size=fields.integer("vocab_size", most=2**24),
        max_positions=fields.integer("max_position_embeddings", most=MAX_NUMBER),
        tied=fields.flag("tie_word_embeddings", False),
        mlp_width=fields.integer("intermediate_size", default=None if "-" in pattern else 0),
        mlp_bias=fields.flag("mlp_bias", False),
        mamba=_mamba(fields),
        attention=_attention(fields),
        moe=_moe(fields, hidden, (pattern + mtp).count("E")) if "E" in pattern + mtp else None,
        config=config,
    )


def _require_architecture(fields: _Fields) -> None:
    architectures = fields.config.get("architectures")
    if architectures is None:
        fields.fail("architectures", "is missing")
    if not isinstance(architectures, list) or ARCHITECTURE not in architectures:
        listed = architectures if isinstance(architectures, list) else [architectures]
        found = ", ".join(map(brief, listed[:3])) or "(none)"
        raise RefusedError(
            f"{fields.source}: the architecture {found} is not supported (rule: architecture). "
            f"This tool exists for {ARCHITECTURE}: Nemotron 3 Nano, Super and Nemotron-H. "
            "What works instead: trtllm-serve or vllm serve with that checkpoint directly."
        )


def _mamba(fields: _Fields) -> Mamba:
    mamba = Mamba(
        num_heads=fields.integer("mamba_num_heads"),
        head_dim=fields.integer("mamba_head_dim"),
        n_groups=fields.integer("n_groups"),
        state_size=fields.integer("ssm_state_size"),
        conv_kernel=fields.integer("conv_kernel"),
        conv_bias=fields.flag("use_conv_bias", True),
        proj_bias=fields.flag("mamba_proj_bias", fields.flag("use_bias", False)),
    )
    if mamba.num_heads % mamba.n_groups:
        fields.fail("n_groups", f"({mamba.n_groups}) must divide `mamba_num_heads`")
    return mamba


def _attention(fields: _Fields) -> Attention:
    heads = fields.integer("num_attention_heads")
    attention = Attention(
        num_heads=heads,
        num_kv_heads=fields.integer("num_key_value_heads", default=heads),
        head_dim=fields.integer("head_dim", "attention_head_dim"),
        bias=fields.flag("attention_bias", False),
    )
    if heads % attention.num_kv_heads:
        fields.fail("num_key_value_heads", f"({attention.num_kv_heads}) must divide {heads} heads")
    return attention


def _moe(fields: _Fields, hidden: int, layers: int) -> Moe:
    latent = fields.config.get("moe_latent_size")
    num_shared = fields.integer("n_shared_experts", default=0, least=0)
    moe = Moe(
        num_experts=fields.integer("n_routed_experts"),
        top_k=fields.integer("num_experts_per_tok"),
        width=fields.integer("moe_intermediate_size"),
        shared_width=fields.integer(
            "moe_shared_expert_intermediate_size", default=None if num_shared else 0
        ),
        num_shared=num_shared,
        latent=fields.integer("moe_latent_size") if latent is not None else hidden,
        has_latent=latent is not None,
    )
    if moe.num_experts * layers > MAX_EXPERT_BLOCKS:
        fields.fail(
            "n_routed_experts",
            f"({moe.num_experts}) makes over {MAX_EXPERT_BLOCKS} experts in {layers} layers",
        )
    if moe.top_k > moe.num_experts:
        fields.fail("num_experts_per_tok", f"({moe.top_k}) exceeds {moe.num_experts} experts")
    groups = fields.integer("n_group", default=1)
    if moe.num_experts % groups:
        fields.fail("n_group", f"({groups}) must divide {moe.num_experts} experts")
    return moe
