"""The embedded checkpoint: what it holds, that it loads, and that it is trained."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest

from nemotron_deploy.model.architecture import Role
from nemotron_deploy.model.catalog import TINY, known_model, text
from nemotron_deploy.model.config import read_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def config():
    return json.loads((TINY / "config.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def record():
    return json.loads((TINY / "training.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(TINY)


@pytest.fixture(scope="module")
def loaded():
    """The model and what transformers had to say about its keys."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        TINY, dtype=torch.bfloat16, output_loading_info=True
    )


@pytest.fixture(scope="module")
def model(loaded):
    return loaded[0].eval()


@pytest.fixture(scope="module")
def headers():
    """Name -> (dtype, shape) of every stored tensor."""
    with safetensors.safe_open(TINY / "model.safetensors", "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}


def test_holds_exactly_the_tensors_that_its_configuration_asks_for(config, headers):
    groups = read_model(config, "tiny").tensors()
    assert {name: shape for name, (_, shape) in headers.items()} == {
        name: group.shape for group in groups for name in group.names()
    }


def test_dtypes_are_bf16_but_for_the_small_tensors_that_need_range(headers):
    kept = ("e_score_correction_bias", "A_log", "D", "dt_bias")
    for name, (dtype, _) in headers.items():
        assert dtype == ("F32" if name.rpartition(".")[2] in kept else "BF16"), name


def test_exercises_what_is_hard_about_the_real_model(config):
    model = read_model(config, "tiny")
    real = known_model("nemotron-3-nano-30b-a3b")
    assert real is not None
    assert real.moe is not None
    assert model.moe is not None
    assert set(config) == set(real.config) - {"auto_map"}
    assert list(config) == sorted(config)
    assert model.layer_count("E") >= 2
    assert set(model.pattern) == {"M", "E", "*"}
    assert model.moe.width % 64 == 0
    assert model.moe.width % 128 == real.moe.width % 128 == 64
    assert model.moe.num_experts >= 8
    assert model.moe.top_k >= 2
    assert model.moe.num_shared == 1
    assert config["norm_topk_prob"]
    assert not model.tied


def test_every_quantizable_matrix_divides_into_groups_of_64(config):
    roles = {Role.EXPERT, Role.SHARED_EXPERT, Role.MAMBA_PROJ, Role.ATTENTION}
    for group in read_model(config, "tiny").tensors():
        if group.role in roles:
            assert [side % 64 for side in group.shape] == [0, 0], group.template


def test_is_small():
    assert sum(path.stat().st_size for path in TINY.iterdir()) <= 8 * 10**6


def test_loads_natively_with_every_key_in_its_place(loaded):
    model, info = loaded
    assert type(model).__module__.startswith("transformers.models.nemotron_h")
    assert not any(info.values()), info
    bias = model.model.layers[1].mixer.gate.e_score_correction_bias
    assert bias.dtype == torch.float32


def test_special_tokens_agree(config, tokenizer):
    generation = json.loads((TINY / "generation_config.json").read_text(encoding="utf-8"))
    for kind in ("pad", "bos", "eos"):
        key = f"{kind}_token_id"
        assert config[key] == generation[key] == getattr(tokenizer, key), kind
    assert tokenizer.eos_token == text.TURN_END
    assert len(tokenizer) == config["vocab_size"]


def test_chat_template_writes_what_the_model_was_trained_on(tokenizer):
    prompt = text.prompts(0, 1)[0]
    asked = prompt.text.removeprefix("<|im_start|>user\n").partition(text.TURN_END)[0]
    messages = [{"role": "user", "content": asked}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == prompt.text
    messages.append({"role": "assistant", "content": prompt.answer})
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert whole == f"{prompt.text}{prompt.answer}{text.TURN_END}\n"


@pytest.mark.parametrize("string", ["Add 12 and 8.", "naïve Größe 漢字 🙂\n\t x", " a  b "])
def test_tokenizer_is_lossless(tokenizer, string):
    assert tokenizer.decode(tokenizer.encode(string)) == string


def test_a_completion_continues_its_prompt_token_by_token(tokenizer):
    for prompt in text.prompts(1, 50, split="train"):
        whole = tokenizer.encode(prompt.text + prompt.answer + text.TURN_END)
        assert whole[: len(tokenizer.encode(prompt.text))] == tokenizer.encode(prompt.text)


def test_heldout_loss_is_the_recorded_one_and_far_below_a_unigram_models(model, tokenizer, record):
    documents = text.documents(record["heldout_seed"], record["heldout_documents"], split="heldout")
    total, tokens = 0.0, 0
    seen: Counter[int] = Counter()
    with torch.no_grad():
        for document in documents:
            ids = torch.tensor([tokenizer.encode(document)])
            total += model(input_ids=ids, labels=ids).loss.item() * (ids.numel() - 1)
            tokens += ids.numel() - 1
            seen.update(ids[0, 1:].tolist())
    loss = total / tokens
    entropy = -sum(n / tokens * math.log(n / tokens) for n in seen.values())
    assert loss == pytest.approx(record["heldout_loss"], rel=0.02)
    assert loss < entropy / 3, "even a unigram model fitted to this very text is far worse"
    assert record["heldout_loss"] < record["unigram_loss"] / 3


def test_greedy_answers_to_heldout_questions_are_mostly_right(model, tokenizer, record):
    asked = text.prompts(record["heldout_seed"] + 1, 16)
    right = 0
    for prompt in asked:
        ids = torch.tensor([tokenizer.encode(prompt.text)])
        mask = torch.ones_like(ids)
        out = model.generate(ids, attention_mask=mask, max_new_tokens=24, do_sample=False)
        completion = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        right += completion == prompt.answer
    assert right >= 12
    assert record["heldout_exact"] > 0.7


def test_every_expert_is_used(config, record):
    fair = 1 / config["n_routed_experts"]
    assert record["expert_share_min"] > fair / 10
    assert record["expert_share_max"] < fair * 5
