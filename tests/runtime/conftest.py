"""Fixtures: a bundle-like directory around the embedded tiny checkpoint, and the labelled fakes."""

import json
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nemotron_deploy.model import catalog

FAKES = Path(__file__).parent / "fakes"


@pytest.fixture
def bundle(tmp_path):
    """What the model reads of a bundle; the checkpoint is the embedded one, not quantized."""
    shutil.copytree(catalog.TINY, tmp_path / "checkpoint")
    (tmp_path / "model_repository" / "tiny").mkdir(parents=True)
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "llm_args.yaml").write_text("backend: pytorch\nmax_seq_len: 512\n")
    engine = {
        "gpu": "h100", "sm": 90, "gpus": 1, "trtllm_versions": ">=1.2.1,<1.3",
        "quant": {"requested": "bf16", "effective": "bf16"}, "needs": [], "plugin": None,
    }  # fmt: skip
    (tmp_path / "engine" / "engine.json").write_text(json.dumps(engine))
    return tmp_path


@pytest.fixture
def fakes(monkeypatch):
    """Put the fakes of tensorrt_llm and of Triton's stub on the path; forget them afterwards."""
    monkeypatch.syspath_prepend(str(FAKES))
    names = ("tensorrt_llm", "tensorrt_llm.llmapi", "triton_python_backend_utils")
    yield
    ours = "nemotron_deploy.runtime.triton"
    for name in (*names, f"{ours}.model", f"{ours}.metrics"):
        sys.modules.pop(name, None)


@pytest.fixture
def hopper(monkeypatch):
    """FAKE: torch sees one GPU of SM90 with 85 GB."""
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    properties = SimpleNamespace(total_memory=85_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


class RecordingSink:
    """A `Sink` that remembers; `done` after the end, or when told so."""

    def __init__(self):
        self.steps, self.failure, self.cancelled = [], None, False

    @property
    def done(self):
        return self.cancelled or self.failure is not None or self.finish is not None

    @property
    def finish(self):
        return self.steps[-1].finish if self.steps else None

    @property
    def text(self):
        return "".join(step.text for step in self.steps)

    @property
    def tokens(self):
        return [token for step in self.steps for token in step.tokens]

    def step(self, step):
        self.steps.append(step)

    def fail(self, message, failure):
        self.failure = (message, failure)


@pytest.fixture
def new_sink():
    return RecordingSink


@pytest.fixture
def token_request():
    """Builds what an executor is given, from a prompt's tokens and fields of a request."""
    from nemotron_deploy.runtime.generation import GenerationRequest, TokenRequest

    def build(prompt, max_tokens=32, ends=(), text="", resumed=False, guide=None, **fields):
        request = GenerationRequest(**fields)
        return TokenRequest(
            tuple(prompt), max_tokens, frozenset(ends), text, request, resumed, guide
        )

    return build


@pytest.fixture
def eventually():
    """Wait until a condition holds, or fail."""

    def wait(condition, seconds=20):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "did not come true"
            time.sleep(0.005)

    return wait


@pytest.fixture(scope="session")
def tensors():
    """Keyword arguments -> request tensors, typed as config.pbtxt declares them."""
    from nemotron_deploy.runtime.contract import INPUTS

    types = {tensor.name: tensor.data_type.numpy for tensor in INPUTS}

    def build(text="Hi", **values):
        prefixed = {
            prefixed if (prefixed := f"sampling_param_{name}") in types else name: value
            for name, value in values.items()
        }
        if text is not None:
            prefixed["text_input"] = text
        return {name: _array(value, types[name]) for name, value in prefixed.items()}

    return build


def _array(value, dtype):
    elements = value if isinstance(value, list) else [value]
    return np.array([e.encode() if isinstance(e, str) else e for e in elements], dtype=dtype)
