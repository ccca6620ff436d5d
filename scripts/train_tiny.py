"""Train the embedded checkpoint `tiny` and write it to `model/catalog/tiny`.

    python scripts/train_tiny.py

needs the `local` extra and takes some minutes on two CPU cores. A Nemotron-H model with Mamba-2,
attention and mixture-of-experts layers learns the text of `nemotron_deploy.model.catalog.text`; it
is saved in BF16 with the tensor names and the `config.json` style of the published checkpoints.
What was measured on the saved checkpoint stands in its `training.json`. The folder is replaced as a
whole, or not at all.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, NemotronHConfig, NemotronHForCausalLM
from transformers.models.nemotron_h import modeling_nemotron_h
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHTopkRouter

from nemotron_deploy.model.catalog import TINY, text

SPECIAL_TOKENS = ("<pad>", "<s>", text.TURN_END, "<|im_start|>")
PAD, BOS, EOS, TURN_START = range(4)

ANSWER_WEIGHT = 5.0

TRAINING_CHUNK = 16
"""`chunk_size` while training: the result is the same, with less work for rows this short."""

HAND_WRITTEN = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
"""Files of `model/catalog/tiny` that are sources: they say what is trained and are copied
unchanged."""

CONFIG: dict[str, Any] = json.loads((TINY / "config.json").read_text(encoding="utf-8"))

KEPT_IN_F32 = ("e_score_correction_bias", "A_log", "D", "dt_bias")

HELDOUT_SEED = 7
HELDOUT_DOCUMENTS = 128
HELDOUT_PROMPTS = 256


def train_tokenizer(seed: int) -> Tokenizer:
    """Byte-level BPE of `vocab_size` tokens; digits stay single, as in the published tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.documents(seed, 4000), trainer)
    assert tokenizer.get_vocab_size() == CONFIG["vocab_size"], "too little text for the vocabulary"
    return tokenizer


def rows(tokenizer: Tokenizer, seed: int, length: int) -> Iterator[list[int]]:
    """Endless rows of `length` tokens: whole documents, the last one cut. Every second row opens
    with BOS, so that a server may add it or not."""
    texts = chain.from_iterable(text.documents(seed + part, 10_000) for part in count())
    for number in count():
        row = [BOS] * (number % 2)
        while len(row) < length:
            row += tokenizer.encode(next(texts)).ids
        yield row[:length]


@dataclass
class RouterBalance:
    """Balances experts without an auxiliary loss (DeepSeek-V3, arXiv:2412.19437, section 2.1.2):
    after a step, the selection bias of every overloaded expert falls by `rate` and that of every
    other one rises."""

    rate: float
    loads: dict[NemotronHTopkRouter, torch.Tensor] = field(default_factory=dict)

    def watch(self, model: torch.nn.Module) -> None:
        """Count, from now on, the tokens that each expert of `model` is given."""
        for module in model.modules():
            if isinstance(module, NemotronHTopkRouter):
                self.loads[module] = torch.zeros(module.num_experts)
                module.register_forward_hook(self._count)

    def _count(self, router: NemotronHTopkRouter, _: Any, output: tuple[torch.Tensor, ...]) -> None:
        chosen = output[2].flatten()
        self.loads[router] += torch.bincount(chosen, minlength=router.num_experts)

    @torch.no_grad()
    def update(self) -> None:
        """Move the biases by what was counted since the last update, and count anew."""
        for router, load in self.loads.items():
            router.e_score_correction_bias += self.rate * (load.mean() - load).sign()
            load.zero_()

    def shares(self) -> list[list[float]]:
        """Per layer, the share of its chosen slots that each expert was given."""
        return [(load / load.sum()).tolist() for load in self.loads.values()]


def build_model(seed: int) -> NemotronHForCausalLM:
    """A freshly initialised model in float32, whose Mamba layers go through `chunk_scan`: the
    library's own path without GPU kernels is several times slower to train."""
    transformers.set_seed(seed)
    model = NemotronHForCausalLM(NemotronHConfig(**CONFIG)).float().train()
    modeling_nemotron_h.mamba_chunk_scan_combined = chunk_scan
    for module in model.modules():
        if isinstance(module, modeling_nemotron_h.NemotronHMamba2Mixer):
            module.use_mem_eff_path = False
            module.chunk_size = TRAINING_CHUNK
            module.forward = module.cuda_kernels_forward
    return model


def chunk_scan(
    x: torch.Tensor,
    dt: torch.Tensor,
    decay: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    *,
    chunk_size: int,
    D: torch.Tensor,  # noqa: N803 - the names below are those of the kernel this stands in for
    dt_bias: torch.Tensor,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The Mamba-2 recurrence `h = exp(dt decay) h + dt b x, y = c h + D x`, a chunk at a time
    (arXiv:2405.21060, section 6), with matrix products only.

    Shapes: x [batch, length, heads, head_dim], dt [batch, length, heads], decay [heads], b and c
    [batch, length, groups, state]; the length is a multiple of `chunk_size`.
    """
    (_, length, heads, _), groups = x.shape, b.shape[2]
    dt = torch.nn.functional.softplus(dt + dt_bias)

    def chunked(tensor: torch.Tensor) -> torch.Tensor:
        """[batch, length, groups or heads, ...] as [batch, chunk, group, (head,) step, ...]."""
        split = tensor.unflatten(1, (length // chunk_size, chunk_size)).transpose(2, 3)
        return split.unflatten(2, (groups, -1)) if tensor.shape[2] == heads else split

    log_decay = chunked(dt * decay).cumsum(-1)
    values, keys, queries = chunked(x * dt[..., None]), chunked(b)[:, :, :, None], chunked(c)
    queries = queries[:, :, :, None]
    future = torch.ones(chunk_size, chunk_size, dtype=torch.bool).triu(1)
    between = (log_decay[..., :, None] - log_decay[..., None, :]).masked_fill(future, -math.inf)
    inside = (queries @ keys.mT * between.exp()) @ values
    to_end = (log_decay[..., -1:] - log_decay).exp()[..., None]
    added = (values * to_end).mT @ keys
    state, states = torch.zeros_like(added[:, 0]), []
    for index in range(length // chunk_size):
        states.append(state)
        state = state * log_decay[:, index, ..., -1, None, None].exp() + added[:, index]
    carried = queries @ torch.stack(states, 1).mT * log_decay.exp()[..., None]
    y = (inside + carried).flatten(2, 3).transpose(2, 3).flatten(1, 2)
    return y + x * D[:, None], None


def optimizers_for(model: torch.nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for everything else."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        inside = parameter.ndim == 2 and ".mixer." in name and ".gate." not in name
        (matrices if inside else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True),
    ]


def weighted_loss(logits: torch.Tensor, ids: torch.Tensor, assistant: int) -> torch.Tensor:
    """Cross-entropy in nats, where what the assistant says counts `ANSWER_WEIGHT` times as much as
    the questions, which cannot be foreseen. `assistant` is the token that follows the start of its
    turn; `ids` [batch, length], `logits` [batch, length, vocabulary]."""
    starts = ids[:, :-1] == TURN_START
    spoken = starts & (ids[:, 1:] == assistant)
    turn = (torch.arange(starts.shape[1]) * starts).cummax(dim=1).values
    weights = 1.0 + (ANSWER_WEIGHT - 1.0) * spoken.gather(1, turn)
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    return (losses * weights.flatten()).sum() / weights.sum()


def train(tokenizer: Tokenizer, args: argparse.Namespace) -> NemotronHForCausalLM:
    """Train for `args.steps` steps: linear warm-up over 5 %, then cosine decay to 2 %."""
    model = build_model(args.seed)
    optimizers = optimizers_for(model, args.lr)
    assistant = tokenizer.encode("assistant").ids[0]
    balance = RouterBalance(args.balance_rate)
    balance.watch(model)
    warmup = max(1, args.steps // 20)
    columns = (
        TextColumn("training"), BarColumn(), TextColumn("{task.completed}/{task.total} steps"),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:.0f} tokens/s"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    source = rows(tokenizer, args.seed, args.length)
    started = time.monotonic()
    with Progress(*columns) as progress:
        task = progress.add_task("train", total=args.steps, loss=math.nan, rate=0.0)
        for step in range(args.steps):
            done = max(0, step - warmup) / max(1, args.steps - warmup)
            decay = 0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2
            for group in chain.from_iterable(each.param_groups for each in optimizers):
                group["lr"] = args.lr * min(1.0, (step + 1) / warmup) * decay
            batch = torch.tensor(list(islice(source, args.batch)))
            loss = weighted_loss(model(input_ids=batch, use_cache=False).logits, batch, assistant)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            balance.update()
            rate = (step + 1) * batch.numel() / (time.monotonic() - started)
            progress.update(task, advance=1, loss=loss.item(), rate=rate)
    return model


def hub_tensors(model: NemotronHForCausalLM) -> dict[str, torch.Tensor]:
    """The model's tensors under the names, and in the types, of the published checkpoints."""
    tensors = {}
    for name, value in model.state_dict().items():
        hub_name = name.replace("model.", "backbone.", 1) if name.startswith("model.") else name
        kept = hub_name.rpartition(".")[2] in KEPT_IN_F32
        tensor = value.detach().to(torch.float32 if kept else torch.bfloat16)
        if ".experts." in hub_name:
            stem, _, projection = hub_name.rpartition(".")
            for index, expert in enumerate(tensor):
                tensors[f"{stem}.{index}.{projection}.weight"] = expert.contiguous()
        else:
            tensors[hub_name] = tensor.contiguous()
    return tensors


def write_checkpoint(folder: Path, model: NemotronHForCausalLM, tokenizer: Tokenizer) -> None:
    """Write everything but `training.json` into the empty `folder`."""
    weights = folder / "model.safetensors"
    save_file(hub_tensors(model), weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors leaves it to the owner alone
    tokenizer.save(str(folder / "tokenizer.json"))
    for name in HAND_WRITTEN:
        shutil.copyfile(TINY / name, folder / name)


@torch.no_grad()
def evaluate(folder: Path) -> dict[str, Any]:
    """Measure the checkpoint in `folder` in BF16 on held-out text; losses in nats per token."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    balance = RouterBalance(rate=0.0)
    balance.watch(model)
    total, tokens, heldout = 0.0, 0, Counter[int]()
    for document in text.documents(HELDOUT_SEED, HELDOUT_DOCUMENTS, split="heldout"):
        ids = torch.tensor([tokenizer.encode(document).ids])
        total += model(input_ids=ids, labels=ids).loss.item() * (ids.numel() - 1)
        tokens += ids.numel() - 1
        heldout.update(ids[0, 1:].tolist())
    shares = list(chain.from_iterable(balance.shares()))
    asked = text.prompts(HELDOUT_SEED, HELDOUT_PROMPTS)
    right = sum(answer(model, tokenizer, prompt.text) == prompt.answer for prompt in asked)
    return {
        "heldout_seed": HELDOUT_SEED,
        "heldout_documents": HELDOUT_DOCUMENTS,
        "heldout_loss": round(total / tokens, 4),
        "unigram_loss": round(unigram_loss(tokenizer, heldout), 4),
        "heldout_prompts": HELDOUT_PROMPTS,
        "heldout_exact": round(right / HELDOUT_PROMPTS, 4),
        "expert_share_min": round(min(shares), 4),
        "expert_share_max": round(max(shares), 4),
    }


def answer(model: Any, tokenizer: Tokenizer, prompt: str, limit: int = 32) -> str:
    """The greedy completion of `prompt` up to the end of the turn."""
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False
    )
    completion: str = tokenizer.decode(out[0, ids.shape[1] :].tolist())
    return completion


def unigram_loss(tokenizer: Tokenizer, heldout: Counter[int]) -> float:
    """Nats per held-out token of a model that knows only how often each token occurs in training
    text (one added to every count)."""
    seen = Counter[int](range(CONFIG["vocab_size"]))
    for document in text.documents(0, 4000):
        seen.update(tokenizer.encode(document).ids)
    everything = math.log(seen.total())
    nats = sum(n * (everything - math.log(seen[token])) for token, n in heldout.items())
    return nats / heldout.total()


def replace_folder(new: Path, target: Path) -> None:
    """Put the finished folder `new`, beside `target`, in the place of `target`."""
    if target.exists():
        old = new.with_name(new.name + ".old")
        target.rename(old)
        new.rename(target)
        shutil.rmtree(old)
    else:
        new.rename(target)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the embedded checkpoint `tiny`.")
    parser.add_argument("--out", type=Path, default=TINY, help="folder to write")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=8, help="rows a step")
    parser.add_argument("--length", type=int, default=64, help="tokens a row")
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--balance-rate", type=float, default=1e-3, help="router bias step")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Train, save, measure what was saved, and only then put it in place."""
    args = parse_args()
    torch.set_flush_denormal(
        True
    )  # decayed states are full of denormals, each one slow to multiply
    started = time.monotonic()
    tokenizer = train_tokenizer(args.seed)
    model = train(tokenizer, args)
    seconds = time.monotonic() - started
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out.parent, prefix=".tiny-") as scratch:
        folder = Path(scratch) / "tiny"
        folder.mkdir()
        write_checkpoint(folder, model, tokenizer)
        record = {
            "steps": args.steps,
            "seed": args.seed,
            "tokens": args.steps * args.batch * args.length,
            "seconds": round(seconds),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **evaluate(folder),
        }
        summary = json.dumps(record, indent=2)
        (folder / "training.json").write_text(summary + "\n", encoding="utf-8")
        replace_folder(folder, args.out)
    print(summary)


if __name__ == "__main__":
    main()
