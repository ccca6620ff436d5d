"""Run in a process of its own: load a checkpoint through an engine's plugin, on the FAKE upstream.

    through.py <engine> <checkpoint> <dtype> <action> [argument]

Prints one JSON object; an exception of the plugin as {"error": its class, "message": ...}.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

FAKES = Path(__file__).parent / "fakes"


class Loaded:
    """A checkpoint as TensorRT-LLM would see it, and models made from it."""

    def __init__(self, view: Path, dtype: str) -> None:
        import nemo_deploy_experts
        import torch
        from tensorrt_llm import checkpoints
        from tensorrt_llm._torch.models.modeling_utils import MODEL_CLASS_MAPPING

        self.view, self.dtype = view, getattr(torch, dtype)
        self.stored = checkpoints.weights(view)
        self.kind = MODEL_CLASS_MAPPING["NemotronHForCausalLM"]
        assert self.kind is nemo_deploy_experts.PackedNemotronHForCausalLM

    def build(self, rank: int = 0, ranks: int = 1, **mapping: Any) -> Any:
        from tensorrt_llm import checkpoints

        config = checkpoints.model_config(self.view, self.dtype, rank, ranks)
        vars(config.mapping).update(mapping)
        return self.kind(config)

    def load(self, model: Any, stored: dict[str, Any] | None = None) -> Any:
        from tensorrt_llm._torch.models.mapper import NemotronHHfWeightMapper
        from tensorrt_llm._torch.pyexecutor.model_loader import call_load_weights

        call_load_weights(model.load_weights, stored or self.stored, NemotronHHfWeightMapper())
        return model

    def logits(self, argument: str) -> dict[str, Any]:
        """Of the tokens in `argument`."""
        import torch
        from nemo_deploy_experts.kernels.interpreter import interpreting

        model = self.load(self.build())
        with torch.inference_mode():
            logits = model(torch.tensor([json.loads(argument)]))[0].float()
        parameters = [name for name, _ in model.named_parameters() if ".mixer.experts." in name]
        return {
            "logits": logits.tolist(),
            "interpreted": interpreting(),
            "expert_parameters": len(parameters),
        }

    def ranks(self, _: str) -> float:
        """The largest relative error between one GPU's expert layers and two ranks' sums."""
        import torch

        whole = self.load(self.build())
        parts = [self.load(self.build(rank, 2)) for rank in (0, 1)]
        torch.manual_seed(0)
        worst = 0.0
        for index, layer in enumerate(whole.model.layers):
            if layer.layer_type == "E":
                width = whole.model.embed_tokens.embedding_dim
                hidden = torch.randn(1, 9, width).to(self.dtype) / 4
                with torch.inference_mode():
                    one = layer.mixer(hidden, None).float()
                    two = sum(p.model.layers[index].mixer(hidden, None).float() for p in parts)
                worst = max(worst, float((one - two).norm() / one.norm()))
        return worst

    def check(self, argument: str) -> list[Any]:
        """The modules' own check of the kernels, on weights that stay and on some that change
        between the kernels and the reference (`argument`: how much)."""
        from nemo_deploy_experts.kernels import reference
        from nemo_deploy_experts.plugin import experts

        experts.CHECK_TOKENS = (1, 9)
        model = self.load(self.build())
        layer = model.model.layers[1].mixer
        found = [
            told(module.check, True, self.dtype) for module in (layer.experts, layer.shared_experts)
        ]
        decode = reference.decode
        reference.decode = lambda *given: decode(*given) * float(argument)
        found += [
            told(module.check, False, self.dtype)
            for module in (layer.experts, layer.shared_experts)
        ]
        return found

    def router(self, argument: str) -> dict[str, Any]:
        """Which layers choose experts by our kernel, what is logged, and a layer's output with that
        choice and with upstream's, where `argument` changes upstream's routing method `routing`."""
        import torch

        model = self.build()
        layers = [layer.mixer for layer in model.model.layers if layer.layer_type == "E"]
        for layer in layers:
            exec(argument, {"routing": layer.experts.routing, "torch": torch})
        said: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("nemo_deploy_experts").addHandler(handler)
        self.load(model)
        torch.manual_seed(0)
        hidden = torch.randn(1, 9, model.model.embed_tokens.embedding_dim).to(self.dtype) / 4
        ours = [layer.experts.router is not None for layer in layers]
        if not ours[0]:
            return {"ours": ours, "said": said}
        with torch.inference_mode():
            out = layers[0](hidden, None).float()
            layers[0].experts.router = None
            upstreams = layers[0](hidden, None).float()
        difference = float((out - upstreams).norm() / upstreams.norm())
        return {"ours": ours, "said": said, "difference": difference}

    def refusals(self, argument: str) -> list[Any]:
        """Of several actions."""
        return [told(getattr(self, action), text) for action, text in json.loads(argument)]

    def mapping(self, argument: str) -> None:
        """Build with another mapping."""
        self.build(**json.loads(argument))

    def without(self, argument: str) -> None:
        """Load without the tensors of that name."""
        self.load(self.build(), {n: t for n, t in self.stored.items() if argument not in n})

    def narrow(self, argument: str) -> None:
        """Load with tensors of that name cut."""
        cut = {n: t[:, :64] if argument in n else t for n, t in self.stored.items()}
        self.load(self.build(), cut)


def told(work: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return work(*arguments)
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}


def prove(engine: Path, dtype: str) -> dict[str, Any]:
    """The bundle around `engine` through the production executor, held to its golden outputs."""
    import torch

    from nemotron_deploy.runtime import startup_check
    from nemotron_deploy.runtime.executors import machine, trtllm

    machine.require_gpu = lambda engine: None
    assert not torch.cuda.is_available()
    bundle = engine.parent
    record = json.loads((engine / "engine.json").read_text())
    executor = trtllm.TrtllmExecutor(bundle, {"dtype": dtype}, record)
    try:
        proof = startup_check.prove(bundle, executor)
    finally:
        executor.close(5)
    return proof.record() | {"rounds": executor._llm.rounds}


def run(checkpoint: Path, dtype: str, action: str, argument: str) -> Any:
    import nemo_deploy_experts

    with tempfile.TemporaryDirectory() as folder:
        view = nemo_deploy_experts.checkpoint_view(checkpoint, Path(folder))
        return getattr(Loaded(view, dtype), action)(argument)


def main() -> None:
    engine, checkpoint, dtype, action, *rest = sys.argv[1:]
    os.environ["GOMP_SPINCOUNT"] = "1000"
    sys.path.insert(0, str(FAKES))
    if action == "prove":
        print(json.dumps(told(prove, Path(engine), dtype)))
        return
    sys.path.insert(0, str(Path(engine) / "plugin"))
    print(json.dumps(told(run, Path(checkpoint), dtype, action, rest[0] if rest else "")))


if __name__ == "__main__":
    main()
