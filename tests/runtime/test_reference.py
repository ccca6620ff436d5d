"""The reference executor against transformers' own greedy decoding of the same weights."""

import json
import shutil

import pytest
import torch

from nemotron_deploy.model import catalog
from nemotron_deploy.runtime.errors import StartError
from nemotron_deploy.runtime.executors import reference
from nemotron_deploy.runtime.executors.loading import load_model
from nemotron_deploy.runtime.executors.reference import ReferenceExecutor, generate
from nemotron_deploy.runtime.generation import GenerationRequest, TokenRequest

PROMPT = "<|im_start|>user\nWhat is 3 + 4?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def loaded():
    return load_model(catalog.TINY)


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


def _run(loaded, prompt=PROMPT, max_tokens=32, ends=(2,), **fields):
    model, tokenizer = loaded
    request = TokenRequest(
        tuple(tokenizer(prompt).input_ids),
        max_tokens,
        frozenset(ends),
        prompt,
        GenerationRequest(prompt, **fields),
    )
    return list(generate(model, request))


def _tokens(steps):
    return [token for step in steps for token in step.tokens]


@pytest.mark.parametrize("prompt", [PROMPT, "The", "Tuesday é 日本 ", "a" * 200])
def test_tokens_are_those_of_transformers(loaded, plain, prompt):
    model, tokenizer = loaded
    expected = _greedy(plain, tokenizer, prompt, 24)
    steps = _run(loaded, prompt, max_tokens=24)
    assert [step.tokens for step in steps] == [(token,) for token in expected]
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
    sharded = _tokens(_run(load_model(tmp_path), max_tokens=4))
    assert sharded == _tokens(_run(loaded, max_tokens=4))
    index.write_text(json.dumps({"weight_map": {"x": "../model.safetensors"}}))
    with pytest.raises(StartError, match="no file of its directory"):
        load_model(tmp_path)


def test_every_end_token_ends_the_answer(loaded):
    whole = _tokens(_run(loaded, "Monday", max_tokens=24, ends=()))
    steps = _run(loaded, "Monday", max_tokens=24, ends=(whole[5], whole[9]))
    assert _tokens(steps) == whole[: 1 + min(whole.index(whole[5]), whole.index(whole[9]))]
    assert steps[-1].finish == "stop"


def test_sampling_repeats_with_its_seed_and_differs_between_seeds(loaded):
    def sample(seed):
        steps = _run(
            loaded, "The", max_tokens=16, temperature=3.0, top_k=200, top_p=0.99, seed=seed
        )
        return tuple(_tokens(steps))

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty"])
def test_penalties_avoid_what_was_generated(loaded, penalty):
    """Sixty greedy tokens repeat some; with a large penalty all differ."""
    plain = _tokens(_run(loaded, "Monday", max_tokens=60, ends=()))
    penalized = _tokens(_run(loaded, "Monday", max_tokens=60, ends=(), **{penalty: 100.0}))
    assert len(set(plain)) < len(plain)
    assert len(set(penalized)) == len(penalized)


@pytest.mark.parametrize("count", [0, 3])
def test_logprobs_hold_the_likeliest_tokens_and_the_chosen_one(loaded, count):
    steps = _run(loaded, max_tokens=4, ends=(), logprobs=count, temperature=50.0, seed=1)
    previous = 0.0
    for step in steps:
        (row,) = step.logprobs
        (token,) = step.tokens
        assert count <= len(row) <= count + 1
        assert row[token] == pytest.approx(step.cumulative_logprob - previous, abs=1e-4)
        previous = step.cumulative_logprob
    assert _run(loaded, max_tokens=1)[0].logprobs == ()


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


def test_executor_serves_many_at_once_as_if_alone(new_sink, eventually, loaded, token_request):
    prompts = ["Monday", "The", PROMPT, "12 + 7", "cat", "x"]
    executor = ReferenceExecutor(catalog.TINY, max_active=3, max_tokens=256)
    try:
        assert executor.context == 256
        assert executor.answers.end_tokens == {2}
        sinks = [new_sink() for _ in prompts]
        for prompt, sink in zip(prompts, sinks, strict=True):
            executor.submit(token_request(executor.tokens(prompt), 12, ends={2}), sink)
        eventually(lambda: all(sink.done for sink in sinks))
        assert executor.healthy
    finally:
        executor.close(5)
    alone = [_tokens(_run(loaded, prompt, max_tokens=12)) for prompt in prompts]
    assert [sink.tokens for sink in sinks] == alone
    assert not executor.healthy


def test_a_tokenizer_that_the_library_does_not_know_is_not_guided(tmp_path):
    shutil.copytree(catalog.TINY, tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decoder": None}))
    other = ReferenceExecutor(tmp_path / "other", max_active=1)
    assert not other.can_guide
    other.close(5)


def test_without_the_library_or_an_end_nothing_is_guided(tmp_path, monkeypatch):
    shutil.copytree(catalog.TINY, tmp_path / "endless")
    for name in ("config.json", "generation_config.json"):
        path = tmp_path / "endless" / name
        fields = json.loads(path.read_text())
        fields.pop("eos_token_id", None)
        path.write_text(json.dumps(fields))
    endless = ReferenceExecutor(tmp_path / "endless", max_active=1)
    assert not endless.can_guide
    endless.close(5)
    monkeypatch.setattr(reference, "find_spec", lambda name: None)
    bare = ReferenceExecutor(catalog.TINY, max_active=1)
    assert not bare.can_guide
    bare.close(5)
