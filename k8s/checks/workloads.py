"""What runs pods, whatever its kind: one view for all rules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from ..names import BUNDLE_BYTES, TRITON
from .fields import Field

if TYPE_CHECKING:
    from .object_set import KubeObject

_TEMPLATES: Final = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "PodTemplate": ("template",),
}
"""Where the kinds of Kubernetes itself have their pod template."""

_SCALED: Final = ("Deployment", "StatefulSet", "ReplicaSet", "ReplicationController")
_LONG_RUNNING: Final = (*_SCALED, "DaemonSet")

_GPU_RESOURCE: Final = re.compile(
    r"nvidia\.com/(gpu(\.shared)?|mig-.+)|amd\.com/gpu|gpu\.intel\.com/.+"
)

_MODEL_SERVER: Final = re.compile(
    r"\b(tritonserver|vllm|sglang|lmdeploy|ollama|trtllm-serve|tensorrt[-_]llm|llama-server|"
    r"text-generation-(inference|launcher)|text-embeddings-inference|huggingfaceserver|"
    r"nvcr\.io/nim)\b"
)
"""In an image, or among the words of a command."""

_DEEPEST: Final = 8
"""How many levels of an unknown kind are searched for pods."""


@dataclass(frozen=True, slots=True, eq=False)
class Container:
    """One container of a pod, at its field."""

    field: Field

    @property
    def name(self) -> str:
        return self.field["name"].text()

    @property
    def image(self) -> str:
        return self.field["image"].text()

    @property
    def words(self) -> list[str]:
        """Command and arguments, also those in one line for a shell."""
        given = self.field["command"].texts() + self.field["args"].texts()
        return [word for text in given for word in text.split()]

    @property
    def flags(self) -> dict[str, str]:
        """`--name=value` and `--name value` by name; the value of a bare flag is empty."""
        flags: dict[str, str] = {}
        last = ""
        for word in self.words:
            if word.startswith("-"):
                last, _, flags_value = word.partition("=")
                flags[last] = flags_value
            elif last and not flags[last]:
                flags[last] = word
        return flags

    def argument(self, flag: str) -> Field:
        """The argument with a flag; all of them where none has it."""
        for name in ("args", "command"):
            for field in self.field[name].items():
                if field.text().partition("=")[0] == flag:
                    return field
        return self.field["args"]

    def seconds(self, flag: str, unit: Fraction = Fraction(1)) -> Fraction | None:
        """A flag's whole number times `unit`; None where the flag is missing or not one."""
        text = self.flags.get(flag, "")
        return int(text) * unit if re.fullmatch(r"[0-9]{1,12}", text) else None

    def env(self) -> Iterator[tuple[str, Field]]:
        """Name and field of each environment variable."""
        return ((entry["name"].text(), entry) for entry in self.field["env"].items())

    def value(self, variable: str) -> Field | None:
        """The last literal value of an environment variable; None where it has none."""
        found = [entry["value"] for name, entry in self.env() if name == variable]
        return found[-1] if found and found[-1].is_set else None

    def resource(self, kind: str, name: str) -> Field:
        """`requests` or `limits` of a resource."""
        return self.field.at("resources", kind, name)

    def gpus(self) -> list[tuple[str, Field]]:
        """Name of each GPU resource that it asks for, and the field that does, a limit first."""
        names: dict[str, Field] = {}
        for kind in ("limits", "requests"):
            for name, field in self.field.at("resources", kind).entries():
                if _GPU_RESOURCE.fullmatch(name):
                    names.setdefault(name, field)
        return [*names.items()]

    def mounts(self) -> list[tuple[str, Field]]:
        """Path and field of each volume mount."""
        return [(m["mountPath"].text(), m) for m in self.field["volumeMounts"].items()]

    def ports(self) -> set[int | str]:
        """Numbers and names of its ports."""
        ports: set[int | str] = set()
        for port in self.field["ports"].items():
            ports.add(port["containerPort"].integer(0))
            ports.add(port["name"].text())
        return ports - {0, ""}

    @property
    def pre_stop_seconds(self) -> int:
        """How long the preStop hook sleeps; 0 without one."""
        hook = self.field.at("lifecycle", "preStop")
        script = " ".join(hook.at("exec", "command").texts())
        slept = re.search(r"\bsleep ([0-9]{1,6})\b", script)
        return hook.at("sleep", "seconds").integer(int(slept[1]) if slept else 0)

    @property
    def is_model_server(self) -> bool:
        words = self.words
        # The value of a flag, as in `--engine vllm`, starts nothing.
        started = [
            word
            for before, word in zip(["", *words], words, strict=False)
            if not word.startswith("-") and not (before.startswith("--") and "=" not in before)
        ]
        return any(_MODEL_SERVER.search(text) for text in (self.image, *started))

    @property
    def is_tritonserver(self) -> bool:
        return any(word.rpartition("/")[2] == "tritonserver" for word in self.words)


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Something that runs pods. `metadata` and `pod` are the fields of its pod template."""

    owner: KubeObject
    metadata: Field
    pod: Field

    @property
    def labels(self) -> dict[str, str]:
        """The labels of its pods."""
        return self.metadata["labels"].labels()

    @property
    def annotations(self) -> dict[str, str]:
        """The annotations of its pods, and of itself."""
        return self.owner.annotations | self.metadata["annotations"].labels()

    @property
    def containers(self) -> list[Container]:
        """The containers that run while the pod does."""
        return [Container(field) for field in self.pod["containers"].items()]

    @property
    def init_containers(self) -> list[Container]:
        return [Container(field) for field in self.pod["initContainers"].items()]

    @property
    def all_containers(self) -> list[Container]:
        return [*self.init_containers, *self.containers]

    @property
    def server(self) -> Container | None:
        """The container that serves a model: in what we wrote, the one called `triton`."""
        if self.owner.is_ours:
            return next((c for c in self.containers if c.name == TRITON), None)
        return next((c for c in self.containers if c.is_model_server), None)

    @property
    def is_server(self) -> bool:
        """Whether it asks for GPUs or runs a model server."""
        return any(c.gpus() or c.is_model_server for c in self.containers)

    @property
    def is_long_running(self) -> bool:
        """Whether its pods serve until they are stopped, as far as its kind tells."""
        return self.owner.kind in _LONG_RUNNING

    @property
    def is_scaled(self) -> bool:
        """Whether it has a number of replicas."""
        return self.owner.kind in _SCALED

    @property
    def replicas(self) -> int:
        return self.owner.root.at("spec", "replicas").integer(1)

    @property
    def bundle_bytes(self) -> int | None:
        """The size of its bundle, as its annotation says."""
        recorded = self.annotations.get(BUNDLE_BYTES, "")
        return int(recorded) if re.fullmatch(r"[0-9]{1,15}", recorded) else None

    def volume(self, name: str) -> Field | None:
        """The volume of that name."""
        return next((v for v in self.pod["volumes"].items() if v["name"].text() == name), None)

    def ports(self) -> set[int | str]:
        """Numbers and names of the ports of its containers."""
        return {port for container in self.containers for port in container.ports()}


def workloads_of(owner: KubeObject) -> Iterator[Workload]:
    """The workloads in one object: one for a kind of Kubernetes itself, and for another kind one
    for each pod in it."""
    if owner.is_builtin:
        if owner.kind in _TEMPLATES:
            template = owner.root.at(*_TEMPLATES[owner.kind])
            yield Workload(owner, template["metadata"], template["spec"])
        return
    for holder, pod in _pods(owner.root, None, _DEEPEST):
        metadata = holder["metadata"] if holder.path else Field(None, "", owner)
        yield Workload(owner, metadata, pod)


def _pods(field: Field, holder: Field | None, levels: int) -> Iterator[tuple[Field, Field]]:
    """Pods at any depth: mappings with a list of containers. `holder` is what has the pod."""
    value: Any = field.value
    if not isinstance(value, dict) or not levels:
        return
    containers = value.get("containers")
    if isinstance(containers, list) and all(isinstance(item, dict) for item in containers):
        yield holder or field, field
        return
    for key in value:
        yield from _pods(field[key], field, levels - 1)
