"""How many tokens of the built-in calibration text each routed expert of a full-width router sees.

Prints one JSON line for each model. Routers are transformers' own class with random weights; the
hidden states are random vectors, one a token of a vocabulary that is made from the text itself.
With `shared`, all states have a part in common, as hidden states of real models do: an untrained
router then prefers some experts. Trained routers are balanced against that.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import NemotronHConfig
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHTopkRouter

from nemotron_deploy.model.catalog import known_model
from nemotron_deploy.quantize.texts import MAX_TOKENS, built_in_texts
from nemotron_deploy.runtime.templates import ChatTemplate

MODELS = ("nemotron-3-nano-30b-a3b", "nemotron-3-super-120b-a12b")
VOCABULARY = 16_384
LAYERS = 8

TEMPLATE = """\
{% if tools %}
<|im_start|>system
{{ tools | tojson }}<|im_end|>
{% endif %}
{% for message in messages %}
<|im_start|>{{ message.role }}
{% if message.reasoning_content %}
<think>
{{ message.reasoning_content }}
</think>
{% endif %}
{{ message.content }}
{% for call in message.tool_calls or [] %}
<tool_call>
<function={{ call.function.name }}>
{% for name, value in call.function.arguments | items %}
<parameter={{ name }}>
{{ value }}
</parameter>
{% endfor %}
</function>
</tool_call>
{% endfor %}
<|im_end|>
{% endfor %}
"""
"""A chat template in the form of Nemotron 3's."""


def tokens() -> tuple[list[str], list[list[int]]]:
    """The texts for calibration, and their tokens, cut as for calibrating."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "chat_template.jinja").write_text(TEMPLATE)
        with ChatTemplate(Path(folder)) as template:
            _, texts = built_in_texts(template, "train")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return texts, [row.ids[:MAX_TOKENS] for row in tokenizer.encode_batch(texts)]


def expert_tokens(
    name: str, ids: torch.Tensor, *, shared: float, layers: int = LAYERS
) -> torch.Tensor:
    """Tokens of `ids` that each expert of random routers of the model sees, [layers, experts].

    `shared` is the length of what all hidden states have in common; that of the token's own part
    is 1.
    """
    model = known_model(name)
    assert model is not None
    assert model.moe is not None
    moe, width = model.moe, model.hidden_size
    config = NemotronHConfig(
        hidden_size=width, n_routed_experts=moe.num_experts, num_experts_per_tok=moe.top_k
    )
    counts = []
    for layer in range(layers):
        generator = torch.Generator().manual_seed(layer)
        router = NemotronHTopkRouter(config)
        router.weight.data.normal_(std=width**-0.5, generator=generator)
        states = torch.randn(VOCABULARY, width, generator=generator)
        states += shared * torch.randn(width, generator=generator)
        with torch.inference_mode():
            _, _, chosen = router(states)
        counts.append(torch.bincount(chosen[ids].flatten(), minlength=moe.num_experts))
    return torch.stack(counts)


def report(name: str, ids: torch.Tensor, *, shared: float) -> dict[str, Any]:
    """The figures of one model."""
    counts = expert_tokens(name, ids, shared=shared)
    even = counts.sum(1, keepdim=True) / counts.shape[1]
    least = float((counts / even).min())
    return {
        "model": name,
        "shared": shared,
        "experts": counts.shape[1],
        "tokens_an_expert": {
            "even": round(float(even[0])),
            "least": int(counts.min()),
            "without": int((counts == 0).sum()),
        },
        "least_share_of_even": round(least, 4),
    }


def main() -> None:
    torch.manual_seed(0)
    texts, sequences = tokens()
    ids = torch.tensor([number for row in sequences for number in row])
    characters = sum(map(len, texts))
    print(json.dumps({"texts": len(texts), "tokens": len(ids), "characters": characters}))
    for name in MODELS:
        for shared in (0.0, 0.5):
            print(json.dumps(report(name, ids, shared=shared)), flush=True)


if __name__ == "__main__":
    main()
