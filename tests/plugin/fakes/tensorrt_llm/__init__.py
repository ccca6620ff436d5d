"""A FAKE of the part of TensorRT-LLM that the plugin and its executor touch: no GPU.

It builds a whole Nemotron-H on the CPU, so that a checkpoint can be loaded through the plugin and
its logits compared. What the plugin relies on follows the sources named at each definition; Mamba,
attention and norms, which stay upstream's, are transformers' own layers here.

`LLM` follows tensorrt_llm/llmapi/llm.py @0096693 (`generate` on token numbers, `tokenizer`),
`SamplingParams` tensorrt_llm/sampling_params.py @000a01d, results tensorrt_llm/executor/result.py
@005bc84 (`CompletionOutput`, `Logprob`), several log-probabilities a token pull request 7756.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

__version__ = "1.2.1"


@dataclass(slots=True, kw_only=True)
class SamplingParams:
    max_tokens: int = 32
    top_k: int | None = None
    logprobs: int | None = None
    ignore_eos: bool = False
    detokenize: bool = True


@dataclass(slots=True)
class Logprob:
    logprob: float
    rank: int | None = None


@dataclass(slots=True)
class CompletionOutput:
    index: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)


@dataclass(slots=True)
class RequestOutput:
    outputs: list[CompletionOutput]


class Tokenizer:
    """tensorrt_llm/llmapi/tokenizer.py, TransformersTokenizer."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def encode(self, text, *args, **kwargs):
        return self._tokenizer.encode(text, *args, **kwargs)


class LLM:
    """Loads a checkpoint through whatever class is registered for its architecture."""

    def __init__(self, model, dtype="auto", **kwargs):
        import torch
        from transformers import AutoTokenizer

        from ._torch.models import modeling_utils
        from ._torch.models.mapper import NemotronHHfWeightMapper
        from ._torch.pyexecutor.model_loader import call_load_weights
        from .checkpoints import model_config, weights

        folder = Path(model)
        config = json.loads((folder / "config.json").read_text())
        kind = modeling_utils.MODEL_CLASS_MAPPING[config["architectures"][0]]
        dtype = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
        self.model = kind(model_config(folder, dtype))
        call_load_weights(self.model.load_weights, weights(folder), NemotronHHfWeightMapper())
        self.tokenizer = Tokenizer(AutoTokenizer.from_pretrained(folder))
        self.rounds = 0

    def generate(self, inputs, sampling_params=None, use_tqdm=True):
        self.rounds += 1
        return [
            self._generate(given["prompt_token_ids"], parameters)
            for given, parameters in zip(inputs, sampling_params, strict=True)
        ]

    def _generate(self, prompt, parameters):
        import torch

        assert parameters.top_k == 1
        assert parameters.ignore_eos
        output = CompletionOutput(0)
        for _ in range(parameters.max_tokens):
            with torch.inference_mode():
                logits = self.model(torch.tensor([[*prompt, *output.token_ids]]))[0, -1]
            top = logits.float().log_softmax(-1).topk(parameters.logprobs)
            tokens = top.indices.tolist()
            output.logprobs.append(
                {
                    token: Logprob(value, rank + 1)
                    for rank, (token, value) in enumerate(
                        zip(tokens, top.values.tolist(), strict=True)
                    )
                }
            )
            output.token_ids.append(tokens[0])
        return RequestOutput([output])

    def shutdown(self):
        pass
