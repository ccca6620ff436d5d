"""Nemotron-H with INT4 or INT8 experts, as an out-of-tree model of TensorRT-LLM.

`build` copies this folder and `kernels/` side by side into an engine, as the package
`nemo_deploy_experts`; importing that package registers the model (`model.py`). Imports nothing of
the rest of the project, and TensorRT-LLM only in `model.py`. Mamba, attention, router, embeddings
and head stay upstream's. Nothing in this package has run with a real TensorRT-LLM yet.
"""
