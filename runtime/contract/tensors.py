"""The tensors of the served model: what a request may hold, and a response."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


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
