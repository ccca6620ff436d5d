"""A FAKE. Follows tensorrt_llm/_torch/models/modeling_nemotron_h.py @00620eb: which classes make
which, with which arguments, and how they call each other. `DeepseekV3Gate` and its routing method
follow modeling_deepseekv3.py (blob 3518086746) and modules/fused_moe/routing.py (blob 51828280080);
`MLP` and `create_moe` the calls of NemotronHMOE. One GPU, one sequence, no cache, no streams."""

import torch
from torch import nn
from transformers.models.nemotron_h import modeling_nemotron_h as hf

from .modeling_utils import load_weights, register_auto_model


class MLP(nn.Module):
    def __init__(
        self,
        *,
        hidden_size,
        intermediate_size,
        bias,
        activation,
        dtype=None,
        config=None,
        layer_idx=None,
        reduce_output=True,
        overridden_tp_size=None,
        lora_up_module_type=None,
        lora_down_module_type=None,
        use_custom_cublas_mm=False,
    ):
        super().__init__()
        self.activation = activation
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias, dtype=dtype)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias, dtype=dtype)

    def forward(self, x, lora_params=None):
        return self.down_proj(self.activation(self.up_proj(x)))


class CutlassFusedMoE(nn.Module):
    """What upstream would have made: BF16 weights of all experts."""

    def __init__(self, num_experts, hidden_size, intermediate_size, dtype):
        super().__init__()
        shape = num_experts, intermediate_size, hidden_size
        self.w3_w1_weight = nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)

    def load_weights(self, weights):
        raise AssertionError("experts that the plugin should have replaced are loaded")


def create_moe(
    routing_method,
    num_experts,
    hidden_size,
    intermediate_size,
    dtype=None,
    reduce_results=False,
    model_config=None,
    aux_stream_dict=None,
    weight_loading_mode=None,
    bias=False,
    layer_idx=None,
    activation_type=None,
):
    return CutlassFusedMoE(num_experts, hidden_size, intermediate_size, dtype)


def relu2(x):
    return torch.square(torch.relu(x))


class Deepseekv3RoutingImpl:
    def __init__(self, top_k, n_group, topk_group, routed_scaling_factor, is_fused=True):
        self.top_k, self.n_group, self.topk_group = top_k, n_group, topk_group
        self.routed_scaling_factor, self.is_fused = routed_scaling_factor, is_fused

    def apply(self, logits, e_score_correction_bias):
        """The path for one group."""
        assert self.n_group == self.topk_group == 1
        scores = logits.float().sigmoid()
        ids = torch.topk(scores + e_score_correction_bias, self.top_k, dim=1).indices
        chosen = scores.gather(1, ids)
        weights = chosen / (chosen.sum(dim=-1, keepdim=True) + 1e-20) * self.routed_scaling_factor
        return ids.to(torch.int32), weights.to(torch.float32)


class DeepSeekV3MoeRoutingMethod:
    def __init__(
        self,
        top_k,
        n_group,
        topk_group,
        routed_scaling_factor,
        callable_e_score_correction_bias,
        is_fused=True,
    ):
        self.routing_impl = Deepseekv3RoutingImpl(
            top_k, n_group, topk_group, routed_scaling_factor, is_fused
        )
        self.callable_e_score_correction_bias = callable_e_score_correction_bias

    def apply(self, logits):
        return self.routing_impl.apply(logits, self.e_score_correction_bias)

    @property
    def e_score_correction_bias(self):
        return self.callable_e_score_correction_bias()

    @property
    def top_k(self):
        return self.routing_impl.top_k


class DeepseekV3Gate(nn.Module):
    def __init__(
        self,
        hidden_size,
        num_experts,
        top_k,
        n_group,
        topk_group,
        routed_scaling_factor,
        dtype=None,
        fuse_routing_kernel=True,
        apply_routing=False,
        moe_backend="CUTLASS",
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size, dtype=dtype))
        self.e_score_correction_bias = nn.Parameter(torch.empty(num_experts, dtype=torch.float32))
        assert not apply_routing
        self.routing_method = DeepSeekV3MoeRoutingMethod(
            top_k, n_group, topk_group, routed_scaling_factor, lambda: self.e_score_correction_bias
        )

    def forward(self, hidden_states):
        return hidden_states.float() @ self.weight.float().t()


class NemotronHMOE(nn.Module):
    def __init__(
        self,
        model_config,
        layer_idx,
        aux_stream_dict,
        reduce_output=False,
        use_custom_cublas_mm=False,
    ):
        super().__init__()
        config = model_config.pretrained_config
        self.hidden_dim = config.hidden_size
        self.shared_experts = MLP(
            hidden_size=config.hidden_size,
            intermediate_size=config.moe_shared_expert_intermediate_size * config.n_shared_experts,
            bias=False,
            activation=relu2,
            dtype=config.torch_dtype,
            config=model_config,
            layer_idx=layer_idx,
            reduce_output=False,
            overridden_tp_size=None,
            lora_up_module_type="SHARED_EXPERT_H_TO_4H",
            lora_down_module_type="SHARED_EXPERT_4H_TO_H",
            use_custom_cublas_mm=use_custom_cublas_mm,
        )
        self.gate = DeepseekV3Gate(
            config.hidden_size,
            config.n_routed_experts,
            top_k=config.num_experts_per_tok,
            n_group=config.n_group,
            topk_group=config.topk_group,
            routed_scaling_factor=config.routed_scaling_factor,
            dtype=config.torch_dtype,
            fuse_routing_kernel=True,
            apply_routing=False,
            moe_backend=model_config.moe_backend,
        )
        self.experts = create_moe(
            routing_method=self.gate.routing_method,
            num_experts=config.n_routed_experts,
            hidden_size=config.hidden_size,
            intermediate_size=config.moe_intermediate_size,
            aux_stream_dict=aux_stream_dict,
            dtype=config.torch_dtype,
            reduce_results=False,
            model_config=model_config,
            layer_idx=layer_idx,
            weight_loading_mode="VANILLA",
            bias=False,
            activation_type="Relu2",
        )

    def forward(self, hidden_states, attn_metadata, lora_params=None, **kwargs):
        shape = hidden_states.shape
        router_logits = self.gate(hidden_states.view(-1, self.hidden_dim))
        routed = self.experts(
            hidden_states, router_logits, all_rank_num_tokens=None, use_dp_padding=False
        )
        shared = self.shared_experts(hidden_states, lora_params=lora_params)
        return (shared + routed).view(shape)


class Mamba2Mixer(hf.NemotronHMamba2Mixer):
    """transformers' mixer with the parameters that the mapper makes."""

    def load_weights(self, weights):
        (tensors,) = weights
        self.A_log.data.copy_(tensors["A"].neg().log())
        self.D.data.copy_(tensors["D"])
        self.dt_bias.data.copy_(tensors["dt_bias"])


class NemotronHLayer(nn.Module):
    def __init__(self, model_config, layer_idx, layer_type, aux_stream_dict):
        super().__init__()
        config, dtype = model_config.hf_config, model_config.pretrained_config.torch_dtype
        self.layer_type = layer_type
        self.norm = hf.NemotronHRMSNorm(config.hidden_size, config.layer_norm_epsilon).to(dtype)
        if layer_type == "M":
            self.mixer = Mamba2Mixer(config, layer_idx).to(dtype)
        elif layer_type == "*":
            self.mixer = hf.NemotronHAttention(config, layer_idx).to(dtype)
        else:
            self.mixer = NemotronHMOE(model_config, layer_idx, aux_stream_dict=aux_stream_dict)

    def forward(self, hidden_states):
        normed = self.norm(hidden_states)
        if self.layer_type == "*":
            tokens = hidden_states.shape[1]
            mask = torch.full((tokens, tokens), float("-inf"), dtype=normed.dtype).triu(1)
            return hidden_states + self.mixer(normed, attention_mask=mask[None, None])[0]
        if self.layer_type == "M":
            return hidden_states + self.mixer(normed)
        return hidden_states + self.mixer(normed, attn_metadata=None)


class NemotronHModel(nn.Module):
    def __init__(self, model_config):
        super().__init__()
        config, dtype = model_config.pretrained_config, model_config.pretrained_config.torch_dtype
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, dtype=dtype)
        self.layers = nn.ModuleList(
            NemotronHLayer(model_config, index, letter, aux_stream_dict={})
            for index, letter in enumerate(config.hybrid_override_pattern)
        )
        self.norm_f = hf.NemotronHRMSNorm(config.hidden_size, config.norm_eps).to(dtype)

    def forward(self, input_ids):
        hidden_states = self.embed_tokens(input_ids)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return self.norm_f(hidden_states)


@register_auto_model("NemotronHForCausalLM")
class NemotronHForCausalLM(nn.Module):
    def __init__(self, model_config):
        super().__init__()
        config = model_config.pretrained_config
        self.model = NemotronHModel(model_config)
        self.lm_head = nn.Linear(
            config.hidden_size, config.vocab_size, bias=False, dtype=config.torch_dtype
        )

    def load_weights(self, weights, weight_mapper):
        load_weights(self, weight_mapper.preprocess_weights(weights))

    def forward(self, input_ids):
        return self.lm_head(self.model(input_ids))
