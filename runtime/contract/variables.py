"""Environment variables that are read or set, and the caches that some of them name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .names import EXECUTORS


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable that is read or set. `default` is what holds where it is not set.

    Child processes get it from their parent only where `passed` is true.
    """

    name: str
    meaning: str
    default: str = ""
    passed: bool = False


EXECUTOR: Final = Variable(
    "NEMO_DEPLOY_EXECUTOR",
    "The executor that serves, instead of the one that config.pbtxt names: "
    f"{' or '.join(EXECUTORS)}.",
    "the parameter `executor` of config.pbtxt",
    passed=True,
)
SCRIPT: Final = Variable(
    "NEMO_DEPLOY_SCRIPT", "The file of answers that the executor `scripted` plays.", passed=True
)
MAX_WAITING: Final = Variable(
    "NEMO_DEPLOY_MAX_WAITING",
    "How many requests may wait beside those that are generated. More are refused at once.",
    "the parameter `max_waiting` of config.pbtxt, 256",
    passed=True,
)
TRUSTING: Final = Variable(
    "NEMO_DEPLOY_TRUSTING_CLIENTS",
    "1 lets `stop` end requests with ids of any length, for clients that trust each other.",
    "0",
    passed=True,
)
STALL: Final = Variable(
    "NEMO_DEPLOY_STALL_SECONDS",
    "Without a generated token for so long, the model is not ready.",
    "6",
    passed=True,
)
DEAD: Final = Variable(
    "NEMO_DEPLOY_DEAD_SECONDS",
    "Without a generated token for so long, the model is not live.",
    "120",
    passed=True,
)
HEALTH_ADDRESS: Final = Variable(
    "NEMO_DEPLOY_HEALTH_ADDRESS",
    "The `host:port` at which the model says whether it is ready and live. Set for every server.",
)
TRITON_ADDRESS: Final = Variable(
    "NEMO_DEPLOY_TRITON_ADDRESS",
    "The `host:port` at which the health of Triton itself is asked for. Set for every server.",
)
GOLDEN: Final = Variable(
    "NEMO_DEPLOY_GOLDEN",
    "`on` compares a server's outputs with the bundle's golden outputs before it is ready. "
    "`require` also keeps a server from becoming ready if the bundle has no golden outputs. `off` "
    "compares nothing.",
    "on",
    passed=True,
)
GOLDEN_MODES: Final = ("on", "require", "off")
GOLDEN_BEGINS: Final = "the model is loaded; its golden outputs are being compared"
"""What a server logs when it has loaded. Until its golden outputs are compared it is not ready."""
CACHE: Final = Variable(
    "NEMO_DEPLOY_CACHE",
    "The directory in which a node keeps what it makes from bundles.",
    "$XDG_CACHE_HOME/nemo-deploy, or ~/.cache/nemo-deploy",
    passed=True,
)
DEBUG: Final = Variable("NEMO_DEPLOY_DEBUG", "Any value prints tracebacks, as --debug does.", "off")
ASSEMBLER: Final = Variable(
    "TRITON_PTXAS_BLACKWELL_PATH",
    "The assembler that triton 3.9 uses from SM 90 on. Compiling kernels sets it to CUDA 12's.",
    "the one in triton",
)
SOURCE_DATE: Final = Variable(
    "SOURCE_DATE_EPOCH",
    "Seconds since 1970 that take the place of today's date on pages, for reproducible builds.",
    "today",
)
SINGLE_PROCESS: Final = Variable(
    "TLLM_WORKER_USE_SINGLE_PROCESS",
    "1 keeps TensorRT-LLM's worker in the process of the server. Set for one GPU with the plugin.",
    passed=True,
)
TRTLLM_LOG_LEVEL: Final = Variable(
    "TLLM_LOG_LEVEL", "The log level of TensorRT-LLM.", "TensorRT-LLM's own", passed=True
)
TRITON_CACHE: Final = Variable(
    "TRITON_CACHE_DIR", "Where the Triton language keeps compiled kernels.", "~/.triton/cache",
    passed=True,
)  # fmt: skip
INDUCTOR_CACHE: Final = Variable(
    "TORCHINDUCTOR_CACHE_DIR", "Where PyTorch keeps compiled graphs.", "PyTorch's own", passed=True
)
AUTOTUNER_CACHE: Final = Variable(
    "TLLM_AUTOTUNER_CACHE_PATH", "The file in which TensorRT-LLM keeps what it tuned.", passed=True
)
VLLM_CACHE: Final = Variable(
    "VLLM_CACHE_ROOT", "Where vLLM keeps what it compiled.", "~/.cache/vllm", passed=True
)
FLASHINFER_CACHE: Final = Variable(
    "FLASHINFER_WORKSPACE_BASE",
    "Where FlashInfer, which vLLM uses, keeps what it compiled.",
    "~",
    passed=True,
)
VLLM_LOG_LEVEL: Final = Variable(
    "VLLM_LOGGING_LEVEL", "The log level of vLLM.", "INFO", passed=True
)
VLLM_NO_USAGE: Final = Variable(
    "VLLM_NO_USAGE_STATS", "1 keeps vLLM from reporting its use. Set for every server.", "0"
)
NO_TRACKING: Final = Variable(
    "DO_NOT_TRACK", "1 says the same to other programs. Set for every server.", "0"
)
VLLM_PROCESSES: Final = Variable(
    "VLLM_WORKER_MULTIPROC_METHOD",
    "How vLLM starts its processes. Set to spawn: a copy of the server's process would hold the "
    "pipe by whose end the guard sees that the server's process has ended.",
    "fork",
)
VLLM_SOCKETS: Final = Variable(
    "VLLM_RPC_BASE_PATH",
    "Where the sockets between vLLM's processes are. Set for a local server, which removes them.",
    "the directory of temporary files",
)
VLLM_LONG: Final = Variable(
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN",
    "1 lets a context be longer than the positions of the configuration, as plans allow for models "
    "without position embeddings. Set for vLLM.",
    "0",
)
VLLM_CPU_SPACE: Final = Variable(
    "VLLM_CPU_KVCACHE_SPACE", "The KV cache of vLLM's CPU build, in GiB.", "4", passed=True
)
VLLM_CPU_THREADS: Final = Variable(
    "VLLM_CPU_OMP_THREADS_BIND", "The processors of vLLM's CPU build.", "auto", passed=True
)
XDG_CACHE_HOME: Final = Variable(
    "XDG_CACHE_HOME", "The base directory of caches.", "~/.cache", passed=True
)
HF_OFFLINE: Final = Variable(
    "HF_HUB_OFFLINE", "1 forbids requests to the Hugging Face hub. Set for every server.", "0"
)
TRANSFORMERS_OFFLINE: Final = Variable(
    "TRANSFORMERS_OFFLINE", "1 forbids downloads by transformers. Set for every server.", "0"
)
HF_HOME: Final = Variable(
    "HF_HOME",
    "Where Hugging Face's libraries keep what they download. `fill` keeps it on the claim.",
    "~/.cache/huggingface",
)
HF_CACHE: Final = Variable(
    "HF_HUB_CACHE", "Where checkpoints from the Hugging Face hub are kept.",
    "~/.cache/huggingface/hub",
)  # fmt: skip
HF_SHARED_BLOBS: Final = Variable(
    "HF_HUB_DISABLE_SHARED_BLOBS",
    "1 keeps huggingface_hub from sharing files between repositories. Set while fetching.",
    "1",
)
HF_CODE: Final = Variable(
    "HF_ALLOW_CODE_EVAL", "1 lets lm-eval run the code that a model wrote. Set on request.", "0"
)
TQDM_DISABLE: Final = Variable(
    "TQDM_DISABLE", "1 shows no progress bars of libraries. Set while lm-eval runs.", "0"
)
HF_ENDPOINT: Final = Variable(
    "HF_ENDPOINT",
    "The address of a mirror of the Hugging Face hub.",
    "https://huggingface.co",
)
HF_TOKEN: Final = Variable(
    "HF_TOKEN", "The access token for gated repositories. Never passed to a child process."
)
OPENAI_KEY: Final = Variable(
    "OPENAI_API_KEY", "The API key that `chat` sends to an OpenAI endpoint."
)
OPENAI_KEYS: Final = Variable(
    "NEMO_DEPLOY_OPENAI_KEYS",
    "A file with API keys, one a line. `loadtest` sends the first where OPENAI_API_KEY is not set.",
)
OTLP_ENDPOINT: Final = Variable(
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "The collector that the OpenAI endpoint sends spans to, over HTTP.",
    "http://localhost:4318",
)
OTEL_SAMPLER: Final = Variable(
    "OTEL_TRACES_SAMPLER", "Which requests have spans.", "parentbased_always_on"
)
OTEL_SAMPLER_ARGUMENT: Final = Variable(
    "OTEL_TRACES_SAMPLER_ARG", "The sampler's argument, such as the share of requests."
)
TRACING: Final = (
    OTLP_ENDPOINT,
    Variable(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "The whole URL for spans, in place of OTEL_EXPORTER_OTLP_ENDPOINT.",
        "OTEL_EXPORTER_OTLP_ENDPOINT/v1/traces",
    ),
    Variable("OTEL_EXPORTER_OTLP_HEADERS", "Headers for the collector, such as a token."),
    Variable(
        "OTEL_EXPORTER_OTLP_CERTIFICATE", "The certificates that the collector's is checked with."
    ),
    Variable("OTEL_EXPORTER_OTLP_TIMEOUT", "Seconds for sending spans once.", "10"),
    Variable("OTEL_SERVICE_NAME", "The service that spans are of.", "nemo-deploy-openai"),
    Variable(
        "OTEL_RESOURCE_ATTRIBUTES",
        "Further attributes of the service, as NAME=VALUE pairs with commas between them.",
    ),
    OTEL_SAMPLER,
    OTEL_SAMPLER_ARGUMENT,
    Variable("OTEL_BSP_SCHEDULE_DELAY", "Milliseconds between two batches of spans.", "5000"),
)
"""OpenTelemetry's own variables. Only the OpenAI endpoint gets them, and only with `--traces`."""
OMP_THREADS: Final = Variable(
    "OMP_NUM_THREADS", "Threads of the reference executor.", "the processors it may use",
    passed=True,
)  # fmt: skip
SPIN_COUNT: Final = Variable(
    "GOMP_SPINCOUNT", "How long an idle OpenMP thread spins before it sleeps.", "1000", passed=True
)
PYTHONPATH: Final = Variable(
    "PYTHONPATH",
    "Folders that Python searches. The plugin's is put in front for TensorRT-LLM's workers.",
    passed=True,
)
NO_BYTECODE: Final = Variable(
    "PYTHONDONTWRITEBYTECODE",
    "1 keeps Python from writing byte code. Set with the plugin, so that the bundle stays "
    "unchanged.",
    passed=True,
)
TOKENIZER_THREADS: Final = Variable(
    "TOKENIZERS_PARALLELISM", "false keeps tokenizers to one thread. Set for sandboxed work."
)
RUST_BACKTRACE: Final = Variable(
    "RUST_BACKTRACE", "0 keeps the tokenizer library from printing stacks. Set for sandboxed work."
)
FP_FUSION: Final = Variable(
    "TRITON_DEFAULT_FP_FUSION",
    "1 lets the compiler fuse multiplications and additions. Set while kernels are compiled.",
    "1",
)
INTERPRET: Final = Variable(
    "TRITON_INTERPRET",
    "1 interprets kernels of the Triton language. Removed while kernels are compiled.",
)
PATH: Final = Variable("PATH", "Where programs are found.", passed=True)
HOME: Final = Variable("HOME", "The user's home directory.", passed=True)
LIBRARIES: Final = Variable("LD_LIBRARY_PATH", "Where shared libraries are found.", passed=True)

_SYSTEM: Final = (
    Variable("LANG", "The locale.", passed=True),
    Variable("LC_ALL", "The locale, with precedence over LANG.", passed=True),
    Variable("TZ", "The time zone.", passed=True),
    Variable("TMPDIR", "Where temporary files are made.", "/tmp", passed=True),  # noqa: S108
    Variable("USER", "The user's name.", passed=True),
    Variable("CUDA_VISIBLE_DEVICES", "The GPUs that a process may use.", "all", passed=True),
    Variable("CUDA_HOME", "The CUDA toolkit that kernels are compiled with.", passed=True),
    Variable("NVIDIA_VISIBLE_DEVICES", "The GPUs that a container may use.", "all", passed=True),
)

VARIABLES: Final = (
    EXECUTOR, SCRIPT, MAX_WAITING, TRUSTING, STALL, DEAD, HEALTH_ADDRESS, TRITON_ADDRESS,
    GOLDEN, CACHE, DEBUG, SOURCE_DATE, SINGLE_PROCESS, TRTLLM_LOG_LEVEL,
    TRITON_CACHE, INDUCTOR_CACHE, ASSEMBLER, AUTOTUNER_CACHE,
    VLLM_CACHE, FLASHINFER_CACHE, VLLM_LOG_LEVEL, VLLM_NO_USAGE, NO_TRACKING,
    VLLM_PROCESSES, VLLM_SOCKETS, VLLM_LONG, VLLM_CPU_SPACE, VLLM_CPU_THREADS,
    XDG_CACHE_HOME, HF_OFFLINE, TRANSFORMERS_OFFLINE, HF_HOME, HF_CACHE, HF_SHARED_BLOBS,
    HF_ENDPOINT, HF_TOKEN, HF_CODE, TQDM_DISABLE, OPENAI_KEY, OPENAI_KEYS, *TRACING, OMP_THREADS,
    SPIN_COUNT, PYTHONPATH, NO_BYTECODE, TOKENIZER_THREADS, RUST_BACKTRACE, FP_FUSION, INTERPRET,
    PATH, HOME, LIBRARIES, *_SYSTEM,
)  # fmt: skip
"""Every environment variable that the project reads or sets."""

OFFLINE: Final = {HF_OFFLINE.name: "1", TRANSFORMERS_OFFLINE.name: "1"}
"""Set for every server: all that it serves is in its bundle."""


VLLM_SETTINGS: Final = {
    VLLM_PROCESSES.name: "spawn",
    VLLM_NO_USAGE.name: "1",
    NO_TRACKING.name: "1",
    VLLM_LONG.name: "1",
}
"""Set for vLLM's servers, and by the executor `vllm` before it imports vLLM."""


def child_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The part of `environment` (by default this process' own) that a child process may see.

    Code that came with a bundle or a checkpoint runs in children, so no token or proxy is in it.
    """
    given = os.environ if environment is None else environment
    return {v.name: given[v.name] for v in VARIABLES if v.passed and v.name in given}


ENGINE_CACHES: Final = {
    TRITON_CACHE.name: "triton",
    INDUCTOR_CACHE.name: "inductor",
    AUTOTUNER_CACHE.name: "autotuner.json",
    VLLM_CACHE.name: "vllm",
    FLASHINFER_CACHE.name: "flashinfer",
}
"""Where an engine keeps what it compiled and tuned: paths below a cache directory, by variable."""

_ONLY_OF: Final = {
    AUTOTUNER_CACHE.name: "trtllm",
    VLLM_CACHE.name: "vllm",
    FLASHINFER_CACHE.name: "vllm",
}
"""The executor of a cache that no other executor has."""


def engine_caches(directory: str, executor: str) -> dict[str, str]:
    """Those of `ENGINE_CACHES` that an executor has, below the cache directory `directory`."""
    return {
        name: f"{directory}/{path}"
        for name, path in ENGINE_CACHES.items()
        if _ONLY_OF.get(name, executor) == executor
    }
