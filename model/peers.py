"""Other models that plans are compared with. They are planned only: nothing of them is built.

Their layers are counted with Nemotron-H's letters: a Qwen3 block is an attention layer (`*`) and a
layer of experts (`E`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .architecture import HEAD, Attention, Mamba, Model, Moe, PlannedOnly, Role, TensorGroup

NO_MAMBA: Final = Mamba(
    num_heads=0,
    head_dim=0,
    n_groups=1,
    state_size=0,
    conv_kernel=1,
    conv_bias=False,
    proj_bias=False,
)


@dataclass(frozen=True, slots=True)
class Peer(Model):
    """A mixture of gated experts behind grouped-query attention, as Qwen3's: three matrices an
    expert, norms on queries and keys, no shared expert, every layer alike."""

    def tensors(self) -> tuple[TensorGroup, ...]:
        """Every tensor of its checkpoint, grouped where experts repeat."""
        vocab, hidden = self.vocab_size, self.hidden_size
        groups = [TensorGroup("model.embed_tokens.weight", (vocab, hidden), Role.EMBEDDING)]
        for layer in range(self.layer_count("E")):
            groups += self._block(f"model.layers.{layer}.")
        groups.append(TensorGroup("model.norm.weight", (hidden,), Role.NORM))
        groups.append(TensorGroup(HEAD, (vocab, hidden), Role.HEAD))
        return tuple(groups)

    def _block(self, prefix: str) -> list[TensorGroup]:
        hidden, a, moe = self.hidden_size, self.attention, self.moe
        assert moe is not None, "a peer has experts"
        q, kv = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
        shapes: list[tuple[str, tuple[int, ...], Role]] = [
            ("input_layernorm", (hidden,), Role.NORM),
            ("self_attn.q_proj", (q, hidden), Role.ATTENTION),
            ("self_attn.k_proj", (kv, hidden), Role.ATTENTION),
            ("self_attn.v_proj", (kv, hidden), Role.ATTENTION),
            ("self_attn.o_proj", (hidden, q), Role.ATTENTION),
            ("self_attn.q_norm", (a.head_dim,), Role.NORM),
            ("self_attn.k_norm", (a.head_dim,), Role.NORM),
            ("post_attention_layernorm", (hidden,), Role.NORM),
            ("mlp.gate", (moe.num_experts, hidden), Role.ROUTER),
        ]
        groups = [TensorGroup(f"{prefix}{n}.weight", shape, role) for n, shape, role in shapes]
        experts = [("gate_proj", (moe.width, hidden)), ("up_proj", (moe.width, hidden)),
                   ("down_proj", (hidden, moe.width))]  # fmt: skip
        return groups + [
            TensorGroup(
                f"{prefix}mlp.experts.{{}}.{name}.weight",
                shape,
                Role.EXPERT,
                count=moe.num_experts,
                chosen=moe.top_k,
            )
            for name, shape in experts
        ]


def qwen3_30b_a3b() -> Peer:
    """Qwen/Qwen3-30B-A3B, from its published config.json: 30.5e9 parameters, 3.3e9 active."""
    blocks = 48
    return Peer(
        name="qwen3-30b-a3b",
        pattern="*E" * blocks,
        mtp_pattern="",
        mtp_steps=0,
        hidden_size=2048,
        vocab_size=151936,
        max_positions=40960,
        tied=False,
        mlp_width=0,
        mlp_bias=False,
        norm_epsilon=1e-6,
        mamba=NO_MAMBA,
        attention=Attention(num_heads=32, num_kv_heads=4, head_dim=128, bias=False),
        moe=Moe(
            num_experts=128,
            top_k=8,
            width=768,
            shared_width=0,
            num_shared=0,
            latent=2048,
            has_latent=False,
        ),
        config={},
        planned_only=PlannedOnly(
            "peer", "Planned for comparison only: nemo-deploy builds Nemotron-H models."
        ),
    )


PEERS: Final = {"qwen3-30b-a3b": qwen3_30b_a3b, "qwen/qwen3-30b-a3b": qwen3_30b_a3b}
"""Peers by short name and hub id, in lower case."""


def peer(name: str) -> Peer | None:
    """The peer of that short name or hub id, or None."""
    known = PEERS.get(name.lower())
    return known() if known else None
