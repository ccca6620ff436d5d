"""A FAKE. Follows tensorrt_llm/_torch/models/modeling_utils.py @000a01d: `register_auto_model`
(the last registration wins), and the loader `_load_weights_impl_v2`, which visits modules that own
parameters directly, and hands `load_weights` a list with the tensors below the module's name."""

MODEL_CLASS_MAPPING = {}


def register_auto_model(name):
    def decorator(cls):
        MODEL_CLASS_MAPPING[name] = cls
        return cls

    return decorator


def filter_weights(prefix, weights):
    start = prefix + "."
    return {name[len(start) :]: w for name, w in weights.items() if name.startswith(start)}


def load_weights(model, weights):
    for name, module in model.named_modules():
        if len(module._parameters) > 0:
            module_weights = filter_weights(name, weights)
            if hasattr(module, "load_weights"):
                module.load_weights(weights=[module_weights])
            else:
                for n, p in module._parameters.items():
                    if p is not None:
                        p.data.copy_(module_weights[n][:].view(p.shape))
