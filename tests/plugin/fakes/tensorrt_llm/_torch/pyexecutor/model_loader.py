"""A FAKE. Follows tensorrt_llm/_torch/pyexecutor/model_loader.py, `_call_load_weights`: the same in
stored versions from mid-2025 (model_engine.py then) to late 2026. What a model's `load_weights` is
given depends on the names in its own signature; `getfullargspec` does not look through
`functools.wraps`. `allow_partial_loading` came in 2026."""

import inspect


def call_load_weights(load_method, weights, weight_mapper, allow_partial_loading=False):
    args = inspect.getfullargspec(load_method).args
    kargs = {}
    if "weight_mapper" in args:
        kargs["weight_mapper"] = weight_mapper
    if "allow_partial_loading" in args:
        kargs["allow_partial_loading"] = allow_partial_loading
    else:
        assert allow_partial_loading is False
    load_method(weights, **kargs)
