"""A FAKE. Follows tensorrt_llm/_torch/models/modeling_utils.py @000a01d: `register_auto_model`
(the last registration wins), and the loader `_load_weights_impl_v2`, which visits modules that own
parameters directly, in threads, and hands `load_weights` a list with the tensors below the module's
name. A module whose `load_weights` names no `allow_partial_loading` gets none and must load all."""

import inspect
from concurrent.futures import ThreadPoolExecutor

MODEL_CLASS_MAPPING = {}


def register_auto_model(name):
    def decorator(cls):
        MODEL_CLASS_MAPPING[name] = cls
        return cls

    return decorator


def filter_weights(prefix, weights):
    start = prefix + "."
    return {name[len(start) :]: w for name, w in weights.items() if name.startswith(start)}


def load_weights(model, weights, allow_partial_loading=False):
    def load_single_module(name, module):
        if len(module._parameters) == 0:
            return
        module_weights = filter_weights(name, weights)
        if hasattr(module, "load_weights"):
            args = inspect.getfullargspec(module.load_weights).args
            if "allow_partial_loading" not in args:
                assert not allow_partial_loading
                module.load_weights(weights=[module_weights])
            else:
                module.load_weights(
                    weights=[module_weights], allow_partial_loading=allow_partial_loading
                )
        else:
            for n, p in module._parameters.items():
                if p is not None:
                    p.data.copy_(module_weights[n][:].view(p.shape))

    with ThreadPoolExecutor() as pool:
        for job in [pool.submit(load_single_module, *named) for named in model.named_modules()]:
            job.result()
