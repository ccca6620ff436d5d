"""Rules for the server of a bundle, and the OpenAI endpoint beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ...runtime.contract import OFFLINE
from ..names import BUNDLE, OPENAI
from .draining import EXIT_TIMEOUT
from .fields import Field
from .findings import ERROR, WARNING, Problem, Rule
from .object_set import ObjectSet, workloads
from .placement import needs_gpu
from .workloads import Container, Workload

MODEL_CONTROL: Final = "--model-control-mode"
POOL: Final = "--grpc-max-response-pool-size"
AUTO_COMPLETE: Final = "--disable-auto-complete-config"

WRITTEN: Final = (
    "HOME", "XDG_CACHE_HOME", "TMPDIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR",
)  # fmt: skip
"""Variables that name directories in which programs write."""

_LOCAL: Final = ("127.0.0.1:", "localhost:", "[::1]:")


def bundle_writable(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A server that can write its bundle can change what the other replicas serve."""
    for container in workload.containers:
        for path, mount in container.mounts():
            if path == BUNDLE and not mount["readOnly"].flag():
                yield mount["readOnly"].problem(f"{container.name} can write {BUNDLE}")


def model_control(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """In another mode, anybody who reaches Triton can load and unload models."""
    for container in workload.containers:
        mode = container.flags.get(MODEL_CONTROL, "none")
        if container.is_tritonserver and mode != "none":
            yield container.argument(MODEL_CONTROL).problem(f"{MODEL_CONTROL} is {mode}")


def complete_configuration(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """Triton would complete the configuration by guessing what a model is."""
    for container in workload.containers:
        if container.is_tritonserver and AUTO_COMPLETE not in container.flags:
            yield container.field["args"].problem(f"{AUTO_COMPLETE} is missing")


def response_pool(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """Responses to a slow reader would take memory without limit."""
    if not needs_gpu(workload):  # the wheel of tritonserver, of the variant dev, has no such flag
        return
    for container in workload.containers:
        if container.is_tritonserver and container.seconds(POOL) is None:
            yield container.argument(POOL).problem(f"{POOL} is missing, or not a number")


def online(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """Everything is in the bundle: a server that asks the hub waits for an answer it cannot get."""
    server = workload.server
    if server is None:
        return
    for name in OFFLINE:
        value = server.value(name)
        if value is None or value.text() != "1":
            yield (value or server.field["env"]).problem(f"{name} is not 1")


def home_read_only(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """Libraries write caches there and fail, often long after the start."""
    for container in workload.all_containers:
        if not container.field.at("securityContext", "readOnlyRootFilesystem").flag():
            continue
        for name in WRITTEN:
            value = container.value(name)
            if value is not None and not _is_writable(value.text(), container):
                yield value.problem(f"{name} is {value.text()}, on the read-only root")


def home_missing(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """The image's own home is on the read-only root."""
    server = workload.server
    if server is not None and server.value("HOME") is None:
        yield server.field["env"].problem("HOME is not set, and the root is read-only")


def openai_endpoint(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """The endpoint runs Triton's image, reaches it in the pod, and drains as long."""
    server, endpoint = workload.server, _endpoint(workload)
    if server is None or endpoint is None:
        return
    sleep = server.pre_stop_seconds
    if endpoint.image != server.image:
        yield endpoint.field["image"].problem(f"differs from the image of {server.name}")
    if not endpoint.flags.get("--grpc", "").startswith(_LOCAL):
        yield endpoint.argument("--grpc").problem("must be Triton in the same pod")
    if sleep and endpoint.pre_stop_seconds != sleep:
        yield endpoint.field.at("lifecycle", "preStop").problem(
            f"sleeps {endpoint.pre_stop_seconds} s, Triton's sleeps {sleep} s"
        )
    timeout = server.seconds(EXIT_TIMEOUT)
    if timeout is not None and endpoint.seconds("--grace") != timeout:
        yield endpoint.argument("--grace").problem(f"must be {EXIT_TIMEOUT} of Triton, {timeout} s")


def api_keys(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """The endpoint reads API keys from a Secret, in a volume that changes with it."""
    endpoint = _endpoint(workload)
    if endpoint is None:
        return
    argument, path = endpoint.argument("--api-keys"), endpoint.flags.get("--api-keys")
    if path is None:
        if "--without-keys" not in endpoint.flags:
            yield argument.problem("--api-keys, --without-keys or both are needed")
        return
    mount = _mount_above(path, endpoint)
    volume = workload.volume(mount["name"].text()) if mount else None
    if mount is None or volume is None or not volume["secret"].is_set:
        yield argument.problem(f"{path} is not in a volume of a Secret")
    elif mount["subPath"].is_set:
        yield mount["subPath"].problem("a single file does not change when the Secret does")


def _endpoint(workload: Workload) -> Container | None:
    return next((c for c in workload.containers if c.name == OPENAI), None)


def _is_writable(path: str, container: Container) -> bool:
    """Whether a path is in a volume for writing; one that is not absolute is not known."""
    if "$(" in path or not path.startswith("/"):
        return True
    mount = _mount_above(path, container)
    return mount is not None and not mount["readOnly"].flag()


def _mount_above(path: str, container: Container) -> Field | None:
    """The innermost mount that a path is in."""
    above = [(p.rstrip("/"), m) for p, m in container.mounts()]
    above = [(p, m) for p, m in above if f"{path}/".startswith(f"{p}/")]
    return max(above, key=lambda pair: len(pair[0]))[1] if above else None


RULES: Final[tuple[Rule[Workload], ...]] = (
    Rule("bundle-writable", workloads, bundle_writable, "Set readOnly: true on the mount"),
    Rule(
        "model-control",
        workloads,
        model_control,
        f"Set {MODEL_CONTROL}=none",
        ERROR,
        WARNING,
    ),
    Rule("complete-configuration", workloads, complete_configuration, f"Add {AUTO_COMPLETE}"),
    Rule("response-pool", workloads, response_pool, f"Add {POOL}"),
    Rule("online", workloads, online, f"Set {' and '.join(OFFLINE)} to 1"),
    Rule(
        "home-read-only",
        workloads,
        home_read_only,
        "Mount an emptyDir there, or name a directory of one",
        ERROR,
        ERROR,
        ERROR,
    ),
    Rule("home-missing", workloads, home_missing, "Set HOME to a directory of an emptyDir"),
    Rule("openai-endpoint", workloads, openai_endpoint, "Build the manifests again"),
    Rule("api-keys", workloads, api_keys, "Mount the Secret as a volume and name the file in it"),
)
