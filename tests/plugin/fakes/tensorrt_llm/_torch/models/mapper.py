"""A FAKE of NemotronHHfWeightMapper.preprocess_weights for one GPU and a backend other than VANILLA
(tensorrt_llm/_torch/models/checkpoints/hf/nemotron_h_weight_mapper.py @05b033a): the same names in
the same order of tests, traps included. Mamba's rows stay where they are on one GPU."""

import torch


class NemotronHHfWeightMapper:
    def preprocess_weights(self, weights):
        new_weights = {}
        for name in weights:
            key = name.replace("backbone", "model").replace("embeddings", "embed_tokens")
            key = key.replace("A_log", "A")
            if "A" in key:
                new_weights[key] = weights[name].to(torch.float32).exp().neg()
            elif "D" in key or "dt_bias" in key:
                new_weights[key] = weights[name].to(torch.float32)
            elif "conv1d" in key:
                w = weights[name]
                new_weights[key] = w.squeeze(1) if "weight" in key else w
            elif "mixer.experts." in key:
                if "up_proj" in key:
                    new_weights[key.replace("up_proj", "w3")] = weights[name][:0]
                    new_weights[key.replace("up_proj", "w1")] = weights[name]
                elif "down_proj" in key:
                    new_weights[key.replace("down_proj", "w2")] = weights[name]
                else:
                    raise ValueError(f"Unknown MoE weight: {key}")
            else:
                new_weights[key] = weights[name]
        return new_weights
