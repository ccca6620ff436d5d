"""The reference executor against transformers' own greedy decoding of the same weights."""

import json

import pytest
import torch

from nemotron_deploy.model import catalog
from nemotron_deploy.runtime.executors.loading import load_model
from nemotron_deploy.runtime.executors.reference import ReferenceExecutor, generate
from nemotron_deploy.runtime.generation import (
    Failure,
    GenerationRequest,
    RequestError,
    StartError,
)

PROMPT = "<|im_start|>user\nWhat is 3 + 4?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def loaded():
    return load_model(catalog.TINY)


@pytest.fixture
def endless(loaded, monkeypatch):
    """The same model, which takes no token for the end of its answer."""
    monkeypatch.setattr(loaded[0].generation_config, "eos_token_id", [])
    return loaded


@pytest.fixture(scope="module")
def plain():
    """transformers alone, from the same directory."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(catalog.TINY, dtype=torch.bfloat16).eval()


def _greedy(model, tokenizer, prompt, max_tokens):
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.inference_mode():
        output = model.generate(ids, max_new_tokens=max_tokens, do_sample=False)
    return output[0, ids.shape[1] :].tolist()


def _run(loaded, prompt=PROMPT, limit=4096, **fields):
    model, tokenizer = loaded
    return list(generate(model, tokenizer, GenerationRequest(prompt, **fields), limit))


@pytest.mark.parametrize("prompt", [PROMPT, "The", "Tuesday é 日本 ", "a" * 200])
def test_tokens_are_those_of_transformers(loaded, plain, prompt):
    model, tokenizer = loaded
    expected = _greedy(plain, tokenizer, prompt, 24)
    steps = _run(loaded, prompt, max_tokens=24)
    assert len(steps) == len(expected)
    text = tokenizer.decode(expected, skip_special_tokens=True)
    assert "".join(step.text for step in steps) == text.rstrip("\ufffd")
    ended = expected[-1] == model.generation_config.eos_token_id
    assert steps[-1].finish == ("stop" if ended else "length")


def test_quantized_checkpoints_give_the_tokens_of_their_decoded_weights(tmp_path, loaded, plain):
    """Encode the experts; compare with transformers on the same values in BF16."""
    from safetensors.torch import load_file, save_file

    from nemotron_deploy.runtime.formats import decode, encode_fp8, encode_int4

    stored, values = {}, {}
    for name, tensor in load_file(catalog.TINY / "model.safetensors").items():
        stored[name] = values[name] = tensor
        if ".experts." in name:
            packed, scale = encode_int4(tensor, 64) if "up_proj" in name else encode_fp8(tensor)
            stored |= {name: packed, f"{name}_scale": scale}
            values[name] = decode(packed, scale).to(torch.bfloat16)
    quantized = tmp_path / "quantized"
    quantized.mkdir()
    save_file(stored, quantized / "model.safetensors")
    for file in catalog.TINY.iterdir():
        if file.suffix != ".safetensors":
            (quantized / file.name).write_bytes(file.read_bytes())
    config = json.loads((quantized / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}
    (quantized / "config.json").write_text(json.dumps(config))

    decoded = tmp_path / "decoded"
    decoded.mkdir()
    save_file(values, decoded / "model.safetensors", metadata={"format": "pt"})
    (decoded / "config.json").write_bytes((catalog.TINY / "config.json").read_bytes())
    from transformers import AutoModelForCausalLM

    expected = AutoModelForCausalLM.from_pretrained(decoded, dtype=torch.bfloat16).eval()
    got, tokenizer = load_model(quantized)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.inference_mode():
        assert torch.equal(got(ids).logits, expected(ids).logits)
        assert not torch.equal(got(ids).logits, plain(ids).logits)


def test_router_biases_stay_float32(loaded):
    model, _ = loaded
    biases = [b for name, b in model.named_buffers() if name.endswith("e_score_correction_bias")]
    assert biases
    assert all(bias.dtype is torch.float32 for bias in biases)


def test_loading_names_what_is_missing(tmp_path):
    from safetensors.torch import load_file, save_file

    with pytest.raises(StartError, match=r"config\.json: cannot be read"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_bytes((catalog.TINY / "config.json").read_bytes())
    with pytest.raises(StartError, match=r"model\.safetensors: cannot be read"):
        load_model(tmp_path)
    tensors = load_file(catalog.TINY / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(StartError, match=r"missing keys: lm_head\.weight"):
        load_model(tmp_path)


def test_shards_are_found_through_the_index_and_only_beside_it(tmp_path, loaded):
    from safetensors.torch import load_file, save_file

    tensors = load_file(catalog.TINY / "model.safetensors")
    for file in catalog.TINY.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    names = sorted(tensors)
    where = {name: f"model-{1 + (i % 2)}.safetensors" for i, name in enumerate(names)}
    for shard in set(where.values()):
        save_file({n: tensors[n] for n in names if where[n] == shard}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    sharded = [step.text for step in _run(load_model(tmp_path), max_tokens=4)]
    assert sharded == [step.text for step in _run(loaded, max_tokens=4)]
    index.write_text(json.dumps({"weight_map": {"x": "../model.safetensors"}}))
    with pytest.raises(StartError, match="no file of its directory"):
        load_model(tmp_path)


def test_limit_counts_prompt_and_answer(loaded):
    length = len(loaded[1](PROMPT).input_ids)
    assert _run(loaded, limit=length + 2, max_tokens=2)
    with pytest.raises(RequestError, match=rf"has {length} tokens .* at most {length + 2}"):
        _run(loaded, limit=length + 2, max_tokens=3)


def test_stop_words_end_the_answer_before_them(endless):
    whole = "".join(step.text for step in _run(endless, "Monday", max_tokens=24))
    word = whole[6:9]
    steps = _run(endless, "Monday", max_tokens=24, stop=(word,))
    assert "".join(step.text for step in steps) == whole[: whole.index(word)]
    assert (steps[-1].finish, steps[-1].stop_reason) == ("stop", word)


def test_sampling_repeats_with_its_seed_and_differs_between_seeds(loaded):
    def sample(seed):
        steps = _run(
            loaded, "The", max_tokens=16, temperature=3.0, top_k=200, top_p=0.99, seed=seed
        )
        return "".join(step.text for step in steps)

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty"])
def test_penalties_avoid_what_was_generated(endless, penalty):
    """Sixty greedy tokens repeat some; with a large penalty all differ, so the text must."""
    plain = _run(endless, "Monday", max_tokens=60)
    penalized = _run(endless, "Monday", max_tokens=60, **{penalty: 100.0})
    assert [step.text for step in plain] != [step.text for step in penalized]
    words = [step.text for step in penalized if step.text]
    assert len(set(words)) == len(words)


def test_cumulative_logprob_falls_and_is_that_of_the_tokens(loaded):
    model, tokenizer = loaded
    steps = _run(loaded, "Tuesday", max_tokens=6)
    sums = [step.cumulative_logprob for step in steps]
    assert sums == sorted(sums, reverse=True)
    ids = tokenizer("Tuesday", return_tensors="pt").input_ids
    tokens = _greedy(model, tokenizer, "Tuesday", 6)
    with torch.inference_mode():
        logits = model(torch.cat([ids, torch.tensor([tokens])], dim=1)).logits[0].float()
    after = logits.log_softmax(-1)[ids.shape[1] - 1 : -1]
    expected = float(after[range(len(tokens)), tokens].sum())
    assert sums[-1] == pytest.approx(expected, rel=0.1, abs=0.1)


def test_executor_serves_many_at_once_as_if_alone(new_sink, eventually, loaded):
    prompts = ["Monday", "The", PROMPT, "12 + 7", "cat", "x"]
    executor = ReferenceExecutor(catalog.TINY, max_active=3, max_tokens=256)
    try:
        sinks = [new_sink() for _ in prompts]
        for prompt, sink in zip(prompts, sinks, strict=True):
            executor.submit(GenerationRequest(prompt, max_tokens=12), sink)
        too_long = new_sink()
        executor.submit(GenerationRequest("x", max_tokens=256), too_long)
        eventually(lambda: all(sink.done for sink in [*sinks, too_long]))
        assert executor.healthy
    finally:
        executor.close(5)
    alone = ["".join(s.text for s in _run(loaded, prompt, max_tokens=12)) for prompt in prompts]
    assert [sink.text for sink in sinks] == alone
    assert too_long.failure[1] is Failure.INVALID
    assert not executor.healthy
