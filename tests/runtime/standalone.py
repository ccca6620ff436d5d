"""Run by `test_standalone.py` as `python -I -S`: starts a copied runtime package as Triton would.

Arguments: the folder of fakes, the model's directory, the folders of installed packages. Prints the
text of one answer.
"""

import importlib
import json
import pkgutil
import sys
import threading
from pathlib import Path

HIDDEN = "nemotron_deploy"


class Hide:
    """Keeps the installed project from being imported, wherever it is installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main(fakes, model_directory, *packages):
    sys.path += [fakes, model_directory, *packages]
    sys.meta_path.insert(0, Hide())
    try:
        importlib.import_module(HIDDEN)
    except ModuleNotFoundError:
        pass
    else:
        raise AssertionError("the installed project can be seen")
    shim = importlib.import_module("1.model")
    package = sys.modules["nemo_deploy_runtime"]
    for module in pkgutil.walk_packages(package.__path__, "nemo_deploy_runtime."):
        importlib.import_module(module.name)
    render(Path(model_directory).parents[1] / "checkpoint")
    print(answer(shim, model_directory))


def render(checkpoint):
    """A chat template, in the sandbox's own child process."""
    from nemo_deploy_runtime.templates import ChatTemplate

    with ChatTemplate(checkpoint) as template:
        assert "Hi" in template.apply_chat_template([{"role": "user", "content": "Hi"}])


def answer(shim, model_directory):
    """What the started model answers to one request, with the reference executor."""
    import nemo_deploy_runtime.triton.model as module
    import numpy as np
    import triton_python_backend_utils as pb_utils

    class NoGuard:
        """The real one would end the test's process."""

        def __init__(self, *given):
            pass

        def report(self, health):
            pass

        def dismiss(self):
            pass

    module.Guard = NoGuard
    model = shim.TritonPythonModel()
    values = {"bundle": "../..", "executor": "reference", "max_active": "1", "max_waiting": "1"}
    parameters = {name: {"string_value": value} for name, value in values.items()}
    config = {"name": "tiny", "parameters": parameters}
    model.initialize({"model_config": json.dumps(config), "model_repository": model_directory})
    request = pb_utils.InferenceRequest({"text_input": np.array([b"Monday"], dtype=object)})
    ended = threading.Event()
    send = request.sender.send

    def send_and_end(*given):
        send(*given)
        ended.set()

    request.sender.send = send_and_end
    model.execute([request])
    assert ended.wait(60)
    model.finalize()
    ((response, _),) = request.sender.sent
    return response.texts()["text_output"].decode()


if __name__ == "__main__":
    main(*sys.argv[1:])
