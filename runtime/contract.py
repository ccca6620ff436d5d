"""Every name that the served model shares with its clients, its containers and its documentation.

Tensors, ports, environment variables, cache paths and metrics are named here and nowhere else.
Standard library only: the command line imports this module before anything heavy.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

PACKAGE: Final = "nemo_deploy_runtime"
"""The name under which a bundle holds the folder of this module."""

EXECUTORS: Final = ("trtllm", "vllm", "reference", "scripted")
"""What can generate tokens: TensorRT-LLM, vLLM, transformers on the CPU, or a file of answers."""


class DataType(Enum):
    """An element type of tensors: its names in `config.pbtxt`, in requests, and in numpy."""

    STRING = ("TYPE_STRING", "BYTES", "O")
    BOOL = ("TYPE_BOOL", "BOOL", "bool")
    INT32 = ("TYPE_INT32", "INT32", "int32")
    INT64 = ("TYPE_INT64", "INT64", "int64")
    UINT32 = ("TYPE_UINT32", "UINT32", "uint32")
    UINT64 = ("TYPE_UINT64", "UINT64", "uint64")
    FP32 = ("TYPE_FP32", "FP32", "float32")

    @property
    def config(self) -> str:
        return self.value[0]

    @property
    def wire(self) -> str:
        return self.value[1]

    @property
    def numpy(self) -> str:
        return self.value[2]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the served model. `dims` are those of `config.pbtxt` (-1 is any size); a
    request sends one element unless the meaning says otherwise."""

    name: str
    data_type: DataType
    meaning: str
    dims: tuple[int, ...] = (1,)
    optional: bool = True


# Names, types and shapes are those of TensorRT-LLM's own Triton model (its 1.2 line), so that its
# clients work unchanged: NVIDIA/TensorRT-LLM @c8c6df0,
# triton_backend/all_models/llmapi/tensorrt_llm/config.pbtxt. Two inputs of later versions are left
# out: `lora_path` names a path on the server, `image_url` makes the server fetch a client's URL.
_ANY: Final = (-1,)

TEXT_INPUT: Final = Tensor(
    "text_input",
    DataType.STRING,
    "The prompt, as UTF-8 text. A request has this, `messages` or `input_ids`.",
    _ANY,
)
STREAMING: Final = Tensor(
    "streaming", DataType.BOOL, "Send one response for each token; false by default."
)
BEST_OF: Final = Tensor(
    "sampling_param_best_of", DataType.INT32, "Sequences to generate; must be 1, the default."
)
TEMPERATURE: Final = Tensor(
    "sampling_param_temperature",
    DataType.FP32,
    "Sampling temperature, 0 to 100; 0 takes the most likely token. The defaults of temperature, "
    "top k and top p are those of the checkpoint's `generation_config.json`.",
)
TOP_K: Final = Tensor(
    "sampling_param_top_k",
    DataType.INT32,
    "Sample from this many most likely tokens; 0 is all, 1 takes the most likely token.",
)
TOP_P: Final = Tensor(
    "sampling_param_top_p",
    DataType.FP32,
    "Sample from the most likely tokens with this total probability, above 0 and at most 1.",
)
FREQUENCY_PENALTY: Final = Tensor(
    "sampling_param_frequency_penalty",
    DataType.FP32,
    "Subtracted from a token's logit for each time it was generated; -100 to 100, 0 by default.",
)
PRESENCE_PENALTY: Final = Tensor(
    "sampling_param_presence_penalty",
    DataType.FP32,
    "Subtracted once from the logit of a generated token; -100 to 100, 0 by default.",
)
MAX_TOKENS: Final = Tensor(
    "sampling_param_max_tokens",
    DataType.INT32,
    "Tokens to generate at most; 32 by default, and with `messages` what the context leaves.",
)
STOP_WORDS: Final = Tensor(
    "sampling_param_stop",
    DataType.STRING,
    "Up to 16 texts that end the answer, which does not contain them. Texts in the reasoning and "
    "in arguments of tool calls do not count.",
    _ANY,
)
SEED: Final = Tensor(
    "sampling_param_seed", DataType.UINT64, "Random seed; a random one by default."
)
EXCLUDE_INPUT: Final = Tensor(
    "sampling_param_exclude_input_from_output",
    DataType.BOOL,
    "False puts the prompt before an answer that is not streamed; true by default.",
)
RETURN_PERF_METRICS: Final = Tensor(
    "sampling_param_return_perf_metrics",
    DataType.BOOL,
    "Return timestamps, and cache and draft counts where the executor measures them.",
)
RETURN_FINISH_REASON: Final = Tensor(
    "return_finish_reason",
    DataType.BOOL,
    "Return `finish_reason` with the last response; true by default with `messages`.",
)
RETURN_STOP_REASON: Final = Tensor(
    "return_stop_reason", DataType.BOOL, "Return `stop_reason` with the last response."
)
RETURN_CUMULATIVE_LOGPROB: Final = Tensor(
    "return_cumulative_logprob",
    DataType.BOOL,
    "Return `cumulative_logprob` with the last response, where the executor computes it.",
)
STOP: Final = Tensor(
    "stop", DataType.BOOL, "True cancels the live request that has the same request id."
)

# Beyond that model: chat, tools, reasoning, and prompts that are tokens.
MESSAGES: Final = Tensor(
    "messages",
    DataType.STRING,
    "The conversation in place of a prompt: a JSON list of messages in OpenAI's form.",
)
TOOLS: Final = Tensor(
    "tools", DataType.STRING, "The tools that may be called: a JSON list in OpenAI's form."
)
TOOL_CHOICE: Final = Tensor(
    "tool_choice",
    DataType.STRING,
    'JSON: `"auto"` (the default), `"none"`, `"required"`, or an object that names a function. '
    "With the last two, the answer is one or more calls, or one call of that function.",
)
TEMPLATE_ARGUMENTS: Final = Tensor(
    "chat_template_kwargs",
    DataType.STRING,
    "A JSON object of variables for the chat template; `enable_thinking` turns reasoning on or "
    "off.",
)
RESPONSE_FORMAT: Final = Tensor(
    "response_format",
    DataType.STRING,
    "A JSON object in OpenAI's form: its `type` is `text` (the default), `json_object` or "
    "`json_schema`. The content then conforms to it.",
)
IGNORE_EOS: Final = Tensor(
    "ignore_eos", DataType.BOOL, "Continue after end-of-sequence tokens; false by default."
)
LOGPROBS: Final = Tensor(
    "logprobs",
    DataType.INT32,
    "Return `logprobs` with this many of the likeliest tokens at each position, 0 to 20.",
)
INPUT_IDS: Final = Tensor(
    "input_ids", DataType.INT32, "The prompt as token numbers, in place of a text.", _ANY
)
THINKING_BUDGET: Final = Tensor(
    "thinking_budget",
    DataType.INT32,
    "Tokens of the reasoning at most; it is then closed, and the answer continues.",
)

# What the OpenAI frontend of Triton's makers sends besides `text_input`: openai_frontend/engine/
# utils/triton.py of triton-inference-server/server, with `--backend vllm` (JSON parameters) and
# without. Where one of ours has the same meaning, it is that tensor under another name.
STREAM: Final = Tensor("stream", DataType.BOOL, "The frontend's name of `streaming`.")
FRONTEND_MAX_TOKENS: Final = Tensor(
    "max_tokens", DataType.INT32, "The frontend's name of `sampling_param_max_tokens`."
)
FRONTEND_STOP_WORDS: Final = Tensor(
    "stop_words", DataType.STRING, "The frontend's name of `sampling_param_stop`.", _ANY
)
FRONTEND_TEMPERATURE: Final = Tensor(
    "temperature", DataType.FP32, "The frontend's name of `sampling_param_temperature`."
)
FRONTEND_TOP_P: Final = Tensor(
    "top_p", DataType.FP32, "The frontend's name of `sampling_param_top_p`."
)
FRONTEND_FREQUENCY_PENALTY: Final = Tensor(
    "frequency_penalty", DataType.FP32, "The frontend's name of that sampling parameter."
)
FRONTEND_PRESENCE_PENALTY: Final = Tensor(
    "presence_penalty", DataType.FP32, "The frontend's name of that sampling parameter."
)
FRONTEND_SEED: Final = Tensor(
    "seed", DataType.UINT64, "The frontend's name of `sampling_param_seed`."
)
FRONTEND_EXCLUDE_INPUT: Final = Tensor(
    "exclude_input_in_output",
    DataType.BOOL,
    "The frontend's name of `sampling_param_exclude_input_from_output`.",
)
SAMPLING_PARAMETERS: Final = Tensor(
    "sampling_parameters",
    DataType.STRING,
    "Sampling parameters as one JSON object, from the frontend.",
)
GUIDE_TYPE: Final = Tensor(
    "guided_decoding_guide_type", DataType.STRING, "The frontend's kind of guide: `json_schema`."
)
GUIDE: Final = Tensor(
    "guided_decoding_guide",
    DataType.STRING,
    "The frontend's guide: the schema to which the answer conforms.",
)
RETURN_INPUT_COUNT: Final = Tensor(
    "return_num_input_tokens", DataType.BOOL, "From the frontend; counts are always returned."
)
RETURN_OUTPUT_COUNT: Final = Tensor(
    "return_num_output_tokens", DataType.BOOL, "From the frontend; counts are always returned."
)
RETURN_LOGPROBS: Final = Tensor(
    "return_logprobs", DataType.BOOL, "From the frontend, which also sends how many."
)

INPUTS: Final = (
    TEXT_INPUT, STREAMING, BEST_OF, TEMPERATURE, TOP_K, TOP_P, FREQUENCY_PENALTY, PRESENCE_PENALTY,
    MAX_TOKENS, STOP_WORDS, SEED, EXCLUDE_INPUT, RETURN_PERF_METRICS, RETURN_FINISH_REASON,
    RETURN_STOP_REASON, RETURN_CUMULATIVE_LOGPROB, STOP,
    MESSAGES, TOOLS, TOOL_CHOICE, TEMPLATE_ARGUMENTS, RESPONSE_FORMAT, IGNORE_EOS, LOGPROBS,
    INPUT_IDS, THINKING_BUDGET,
    STREAM, FRONTEND_MAX_TOKENS, FRONTEND_STOP_WORDS, FRONTEND_TEMPERATURE, FRONTEND_TOP_P,
    FRONTEND_FREQUENCY_PENALTY, FRONTEND_PRESENCE_PENALTY, FRONTEND_SEED, FRONTEND_EXCLUDE_INPUT,
    SAMPLING_PARAMETERS, GUIDE_TYPE, GUIDE, RETURN_INPUT_COUNT, RETURN_OUTPUT_COUNT,
    RETURN_LOGPROBS,
)  # fmt: skip
"""What a request may hold, in the order of `config.pbtxt`."""

TEXT_OUTPUT: Final = Tensor(
    "text_output",
    DataType.STRING,
    "The text of this response; UTF-8, whole characters. With `messages`, the content only.",
    _ANY,
)
FINISH_REASON: Final = Tensor(
    "finish_reason",
    DataType.STRING,
    "Why the generation ended: `stop`, `length`, or `tool_calls` where complete calls were made.",
    _ANY,
)
STOP_REASON: Final = Tensor(
    "stop_reason",
    DataType.STRING,
    "The stop text that ended the generation, or nothing for the end-of-sequence token.",
    _ANY,
)
CUMULATIVE_LOGPROB: Final = Tensor(
    "cumulative_logprob",
    DataType.FP32,
    "Sum of the natural logarithms of the generated tokens' probabilities.",
    _ANY,
)
KV_REUSED: Final = Tensor(
    "kv_cache_reused_block", DataType.INT32, "KV-cache blocks that were reused.", _ANY
)
KV_MISSED: Final = Tensor(
    "kv_cache_missed_block", DataType.INT32, "KV-cache blocks that were not in the cache.", _ANY
)
KV_NEW: Final = Tensor(
    "kv_cache_alloc_new_blocks", DataType.INT32, "KV-cache blocks newly allocated.", _ANY
)
KV_TOTAL: Final = Tensor(
    "kv_cache_alloc_total_blocks", DataType.INT32, "KV-cache blocks allocated in all.", _ANY
)
KV_HIT_RATE: Final = Tensor(
    "kv_cache_hit_rate", DataType.FP32, "Share of KV-cache blocks that were reused, 0 to 1.", _ANY
)
ARRIVAL_TIME: Final = Tensor(
    "arrival_time_ns", DataType.INT64, "When the request arrived, on a monotonic clock in ns."
)
FIRST_SCHEDULED_TIME: Final = Tensor(
    "first_scheduled_time_ns", DataType.INT64, "When the request was first scheduled, in ns."
)
FIRST_TOKEN_TIME: Final = Tensor(
    "first_token_time_ns", DataType.INT64, "When the first token was generated, in ns."
)
LAST_TOKEN_TIME: Final = Tensor(
    "last_token_time_ns", DataType.INT64, "When the last token was generated, in ns."
)
ACCEPTANCE_RATE: Final = Tensor(
    "acceptance_rate", DataType.FP32, "Share of draft tokens that were accepted, 0 to 1."
)
DRAFTS_ACCEPTED: Final = Tensor(
    "total_accepted_draft_tokens", DataType.INT32, "Draft tokens that were accepted."
)
DRAFTS: Final = Tensor("total_draft_tokens", DataType.INT32, "Draft tokens that were proposed.")

INPUT_COUNT: Final = Tensor(
    "num_input_tokens", DataType.UINT32, "Tokens of the prompt; with the last response."
)
OUTPUT_COUNT: Final = Tensor(
    "num_output_tokens",
    DataType.UINT32,
    "Tokens of the whole answer, with reasoning, markers and end; with the last response.",
)
REASONING_COUNT: Final = Tensor(
    "num_reasoning_tokens",
    DataType.UINT32,
    "Those of them that are reasoning; with the last response to `messages`.",
)
REASONING_CONTENT: Final = Tensor(
    "reasoning_content", DataType.STRING, "The reasoning of this response, where there is some."
)
TOOL_CALLS: Final = Tensor(
    "tool_calls",
    DataType.STRING,
    "Tool calls of this response as JSON in OpenAI's form, where there are some: streamed, a list "
    "of pieces with `index`; otherwise, a list of calls.",
)
OUTPUT_LOGPROBS: Final = Tensor(
    "logprobs",
    DataType.STRING,
    "Log-probabilities of this response's tokens, as JSON in the form of OpenAI's chat choices.",
)

OUTPUTS: Final = (
    TEXT_OUTPUT, FINISH_REASON, STOP_REASON, CUMULATIVE_LOGPROB, KV_REUSED, KV_MISSED, KV_NEW,
    KV_TOTAL, KV_HIT_RATE, ARRIVAL_TIME, FIRST_SCHEDULED_TIME, FIRST_TOKEN_TIME, LAST_TOKEN_TIME,
    ACCEPTANCE_RATE, DRAFTS_ACCEPTED, DRAFTS, INPUT_COUNT, OUTPUT_COUNT, REASONING_COUNT,
    REASONING_CONTENT, TOOL_CALLS, OUTPUT_LOGPROBS,
)  # fmt: skip
"""What a response may hold, in the order of `config.pbtxt`."""

ERROR_CODES: Final = "error_codes"
"""The request parameter that puts the code of an error before its message, as `code: message`. The
codes are the values of `generation.Failure`.

A message on a stream has no code of its own. Triton can end the stream with a status instead
(`triton_grpc_error`), but its version 2.51 then dies of a segmentation fault now and then.
"""

FINAL_RESPONSE: Final = "triton_final_response"
"""Triton's response parameter that says whether a response is the last one of its request."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port of the server, by the name that Services and probes use."""

    name: str
    number: int
    meaning: str


HTTP: Final = Port("http", 8000, "Inference and health over HTTP.")
GRPC: Final = Port("grpc", 8001, "Inference and health over gRPC.")
METRICS_PORT: Final = Port("metrics", 8002, "Prometheus metrics at /metrics.")
HEALTH: Final = Port(
    "health", 8003, "Whether the model is ready and live, at /ready and /live: it makes progress."
)
TRITON_PORTS: Final = (HTTP, GRPC, METRICS_PORT, HEALTH)
OPENAI: Final = Port("openai", 9000, "OpenAI's API over HTTP, and its health at /health.")
PORTS: Final = (*TRITON_PORTS, OPENAI)


GRACE_SECONDS: Final = 300
"""How long live requests may go on when a server is asked to end: reasoning takes minutes."""


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
    HF_ENDPOINT, HF_TOKEN, OPENAI_KEY, *TRACING, OMP_THREADS, SPIN_COUNT, PYTHONPATH, NO_BYTECODE,
    TOKENIZER_THREADS, RUST_BACKTRACE, FP_FUSION, INTERPRET,
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


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of the served model: its Prometheus name and type (`counter`, `gauge`, `histogram`).

    Every series also has the label `model`. `label` is another one, with all its `values` and what
    each of them means. `buckets` are the upper bounds of a histogram, the last of which is +Inf.
    """

    name: str
    type: str
    help: str
    label: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()


MODEL_LABEL: Final = "model"
"""The label that every series has: the model's name."""

REQUESTS: Final = Metric(
    "nemo_deploy_requests_total",
    "counter",
    "Requests that ended, by outcome.",
    "outcome",
    {
        "stop": "answered to the end, or to a stop text",
        "length": "answered up to its limit of tokens",
        "tool_calls": "answered with tool calls",
        "cancelled": "cancelled, or its client disconnected",
        "deadline": "ended at its deadline",
        "refused": "refused because of what it contains",
        "overloaded": "refused because the server had no room, or was shutting down",
        "error": "ended by an error of the server",
    },
)
PROMPT_TOKENS: Final = Metric(
    "nemo_deploy_prompt_tokens_total", "counter", "Tokens of prompts that were accepted."
)
OUTPUT_TOKENS: Final = Metric(
    "nemo_deploy_output_tokens_total", "counter", "Tokens of answers, as they are generated."
)
RUNNING: Final = Metric(
    "nemo_deploy_sequences_running", "gauge", "Sequences that the executor generates for."
)
WAITING: Final = Metric(
    "nemo_deploy_requests_waiting", "gauge", "Accepted requests that do not run yet."
)
QUEUE_TIME: Final = Metric(
    "nemo_deploy_queue_seconds",
    "histogram",
    "Time from a request's arrival until the executor first schedules it.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, math.inf),
)
TIME_TO_FIRST_TOKEN: Final = Metric(
    "nemo_deploy_time_to_first_token_seconds",
    "histogram",
    "Time from a request's arrival to the first token of its answer.",
    buckets=(
        0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 20, 40, 80, 160, math.inf,
    ),
)  # fmt: skip
INTER_TOKEN_TIME: Final = Metric(
    "nemo_deploy_inter_token_seconds",
    "histogram",
    "Time between two steps of an answer. A step is one token, or several with speculative "
    "decoding.",
    buckets=(
        0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1,
        2.5, 5, 10, math.inf,
    ),
)  # fmt: skip
KV_CACHE_OCCUPANCY: Final = Metric(
    "nemo_deploy_kv_cache_occupancy_ratio",
    "gauge",
    "Share of the KV cache that is in use, 0 to 1; absent where the executor does not know it.",
)
MAMBA_STATE_OCCUPANCY: Final = Metric(
    "nemo_deploy_mamba_state_occupancy_ratio",
    "gauge",
    "Share of the Mamba states that are in use, 0 to 1; absent where the executor does not know "
    "it. A sequence has one state.",
)

METRICS: Final = (
    REQUESTS, PROMPT_TOKENS, OUTPUT_TOKENS, RUNNING, WAITING, QUEUE_TIME, TIME_TO_FIRST_TOKEN,
    INTER_TOKEN_TIME, KV_CACHE_OCCUPANCY, MAMBA_STATE_OCCUPANCY,
)  # fmt: skip
"""Metrics that the served model adds to Triton's own."""


METRICS_FLAGS: Final = ("--metrics-config=histogram_latencies=true",)
"""Flags of `tritonserver` that switch its own `nv_inference_first_response_histogram_ms` on. Triton
2.51, the one for local use, takes the flag and has no such histogram."""


@dataclass(frozen=True, slots=True)
class Series:
    """One time series of a metric: its name, and a label with its value, if it has one."""

    name: str
    label: str = ""
    value: str = ""


def series(metric: Metric) -> tuple[Series, ...]:
    """Every series of a metric. Those of a histogram are its buckets, the sum and the count."""
    if metric.type == "histogram":
        bounds = ("+Inf" if bound == math.inf else f"{bound:g}" for bound in metric.buckets)
        return (
            *(Series(f"{metric.name}_bucket", "le", bound) for bound in bounds),
            Series(f"{metric.name}_sum"),
            Series(f"{metric.name}_count"),
        )
    return tuple(Series(metric.name, metric.label, value) for value in metric.values) or (
        Series(metric.name),
    )
