"""Fixtures: an emitted model repository of the embedded tiny checkpoint."""

import pytest

from nemotron_deploy import triton_repo
from nemotron_deploy.model import catalog
from nemotron_deploy.model.spec import Deployment


@pytest.fixture(scope="session")
def deployment():
    return Deployment(
        name="tiny-h100-bf16",
        model_name="tiny",
        image="nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3",
        gpu=catalog.gpu("h100"),
        gpus=1,
        quant="bf16",
        bundle_bytes=1,
        executor="trtllm",
        max_batch_size=4,
    )


@pytest.fixture
def repository(tmp_path, deployment):
    """An emitted model repository."""
    dest = tmp_path / "model_repository"
    dest.mkdir()
    triton_repo.emit(dest, deployment)
    return dest
