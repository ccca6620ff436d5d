"""Write a Triton model repository, and check one before a server loads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .. import runtime
from ..core.checks import Check
from ..core.errors import BadInputError
from ..model.spec import Deployment
from ..runtime import contract

_RUNTIME: Final = Path(runtime.__file__).parent

_MODEL: Final = f'''"""The model that Triton loads: the package {contract.PACKAGE} beside it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from {contract.PACKAGE}.triton.model import TritonPythonModel  # noqa: E402

__all__ = ["TritonPythonModel"]
'''

VERSION: Final = "1"
"""The directory of the only version in a repository."""

MAX_WAITING: Final = 256
"""How many requests may wait to be scheduled before more are refused."""


def emit(dest: Path, deployment: Deployment) -> None:
    """Write the model `deployment.model_name` into the existing, empty directory `dest`.

    `dest` becomes the bundle's `model_repository`: the model finds the bundle two levels above its
    own directory. Raises `BadInputError` if `dest` is missing or not empty.
    """
    if not dest.is_dir() or any(dest.iterdir()):
        raise BadInputError(f"{dest}: must be an empty directory; remove it and run again")
    settings = Settings(deployment.executor, deployment.max_batch_size)
    for name, content in contents(deployment.model_name, settings):
        target = dest / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


@dataclass(frozen=True, slots=True)
class Settings:
    """What differs between models: what generates tokens, and for how many requests at once."""

    executor: str
    max_active: int


def contents(model_name: str, settings: Settings) -> Iterator[tuple[str, bytes]]:
    """Every file of the repository: its path, and what it holds."""
    version = f"{model_name}/{VERSION}"
    yield f"{model_name}/config.pbtxt", config_text(model_name, settings).encode()
    yield f"{version}/model.py", _MODEL.encode()
    for source in sorted(_RUNTIME.rglob("*.py")):
        path = source.relative_to(_RUNTIME).as_posix()
        yield f"{version}/{contract.PACKAGE}/{path}", source.read_bytes()


def read_settings(config: Path) -> Settings:
    """What a `config.pbtxt` says of its model. Raises `ValueError` for a file that does not."""
    parameters = _read_config(config).parameters
    executor, active = (parameters[name].string_value for name in ("executor", "max_active"))
    return Settings(executor, int(active))


def config_text(model_name: str, settings: Settings) -> str:
    """The `config.pbtxt` of a model with these settings."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    config = model_config_pb2.ModelConfig(
        name=model_name,
        backend="python",
        max_batch_size=0,
        model_transaction_policy=model_config_pb2.ModelTransactionPolicy(decoupled=True),
        instance_group=[
            model_config_pb2.ModelInstanceGroup(
                count=1, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU
            )
        ],
        input=[
            model_config_pb2.ModelInput(**_tensor(tensor), optional=tensor.optional)
            for tensor in contract.INPUTS
        ],
        output=[model_config_pb2.ModelOutput(**_tensor(tensor)) for tensor in contract.OUTPUTS],
    )
    for name, value in _parameters(settings).items():
        config.parameters[name].string_value = value
    text: str = text_format.MessageToString(config)
    return text


def _tensor(tensor: contract.Tensor) -> dict[str, Any]:
    from tritonclient.grpc import model_config_pb2

    data_type = model_config_pb2.DataType.Value(tensor.data_type.config)
    return {"name": tensor.name, "data_type": data_type, "dims": tensor.dims}


def _parameters(settings: Settings) -> dict[str, str]:
    return {
        "bundle": "../..",
        "executor": settings.executor,
        "max_active": str(settings.max_active),
        "max_waiting": str(MAX_WAITING),
    }


def check(repository: Path) -> list[Check]:
    """Check for every model of a repository that its configuration parses and its code compiles."""
    models = sorted(_directories(repository))
    if not models:
        return [Check("model_repository", False, f"{repository}: contains no model directory")]
    checks = []
    for model in models:
        checks.append(_checked(f"{model.name}/config.pbtxt", _check_config, model))
        checks.append(_checked(f"{model.name} code", _check_code, model))
    return checks


def _directories(path: Path) -> Iterable[Path]:
    return (child for child in path.iterdir() if child.is_dir()) if path.is_dir() else ()


def _checked(name: str, look: Callable[[Path], str], model: Path) -> Check:
    try:
        return Check(name, True, look(model))
    except (OSError, ValueError, SyntaxError) as error:
        return Check(name, False, str(error))


def _check_config(model: Path) -> str:
    """A summary. Raises `ValueError` (also protobuf's own) for what Triton would refuse."""
    from tritonclient.grpc import model_config_pb2

    path = model / "config.pbtxt"
    config = _read_config(path)
    if config.name != model.name:
        raise ValueError(f"{path}: names the model {config.name!r}, its directory {model.name!r}")
    if config.backend != "python" or not config.model_transaction_policy.decoupled:
        raise ValueError(f"{path}: must set backend python and decoupled true, or nothing streams")
    for kind, found, tensors in (
        ("input", config.input, contract.INPUTS),
        ("output", config.output, contract.OUTPUTS),
    ):
        expected = {(tensor.name, tensor.data_type.config, tensor.dims) for tensor in tensors}
        types = model_config_pb2.DataType
        actual = {(t.name, types.Name(t.data_type), tuple(t.dims)) for t in found}
        if actual != expected:
            names = ", ".join(sorted({name for name, *_ in actual ^ expected}))
            raise ValueError(f"{path}: {kind} tensors differ from what the model serves: {names}")
    return f"{len(config.input)} inputs, {len(config.output)} outputs, decoupled"


def _read_config(path: Path) -> Any:
    """A `config.pbtxt`. Raises `ValueError` naming a file that cannot be parsed."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ValueError(f"{path}: {error}") from error


def _check_code(model: Path) -> str:
    versions = [path for path in _directories(model) if path.name.isdecimal()]
    if not versions:
        raise ValueError(f"{model}: has no version directory such as {VERSION}/")
    files = 0
    for version in versions:
        if not (version / "model.py").is_file():
            raise ValueError(f"{version}: has no model.py")
        for source in sorted(version.rglob("*.py")):
            compile(source.read_bytes(), str(source), "exec")
            files += 1
    return f"{files} files compile"
