"""How fast: the bytes and operations that a step needs, over the share of the GPU's rates that is
reached, plus fixed costs. Estimates, never measurements.

Every term has its own share (`efficiency`); `docs/planner.md` says what each was fitted to and how
far the results are from published figures.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

from ...model.architecture import SCAN_CHUNK, Moe, Role
from ...model.catalog import architecture
from ...model.formats import Quant
from ...model.spec import Estimate, Gpu, Point, Serving, Workload
from ..engines.base import PlannedEngine
from .efficiency import DEFAULT, Efficiency
from .holdings import WHOLE_ROLES, Holdings
from .routing import distinct, fullest, uneven

CONCURRENCIES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

SCAN_PASSES: Final = 4
"""Times that the state of a chunk is written or read by the kernels of one scan."""


def estimate(speed: Speed, concurrency: int, most: int) -> Estimate:
    """Speed of `concurrency` sequences, and along a curve of concurrencies up to `most`, which is
    what fits."""
    here = speed.point(concurrency)
    most = min(most, CONCURRENCIES[-1])
    places = sorted({n for n in CONCURRENCIES if n <= most} | {concurrency, most})
    return Estimate(
        tpot_ms=here.tpot_ms,
        ttft_ms=here.ttft_ms,
        itl_ms=here.itl_ms,
        decode_tokens_per_s=here.decode_tokens_per_s,
        output_tokens_per_s=here.output_tokens_per_s,
        terms_ms={name: s * 1e3 for name, s in speed.decode_terms(concurrency).items()},
        curve=tuple(speed.point(place) for place in places),
        assumptions=_assumptions(speed),
    )


class Speed:
    """One model in one format on some GPUs of one kind. Times are seconds of the slowest GPU."""

    def __init__(
        self,
        held: Holdings,
        quant: Quant,
        gpu: Gpu,
        workload: Workload,
        engine: PlannedEngine,
        serving: Serving,
        efficiency: Efficiency = DEFAULT,
    ) -> None:
        self.held, self.quant, self.model = held, quant, held.model
        self.workload, self.engine, self.efficiency = workload, engine, efficiency
        self.serving = serving
        self.gpu, self.gpus = gpu, workload.gpus
        self.rates = engine.rates(architecture(gpu.sm))
        self.experts = self.rates.experts[quant.key]
        self.expert_flops = gpu.matrix_flops(quant.operands) * self.experts.flops
        self.flops = gpu.bf16_flops * self.rates.flops["bf16"]
        shares = self.rates.flops
        self.fp8_flops = gpu.matrix_flops("fp8") * shares.get("fp8", shares["bf16"])
        self.expert_bytes = held.bytes_by_role.get(Role.EXPERT, 0)
        self.expert_values = held.values_by_role.get(Role.EXPERT, 0)
        self.kv_bytes = held.kv_bytes_per_token(serving.kv_dtype, self.gpus)
        self.state_bytes = held.state_bytes_per_sequence(serving.state_dtype, self.gpus)

    def with_efficiency(self, efficiency: Efficiency) -> Speed:
        """The same with other efficiencies."""
        return Speed(
            self.held, self.quant, self.gpu, self.workload, self.engine, self.serving, efficiency
        )

    def point(self, concurrency: int) -> Point:
        """All of the speed at one concurrency, with prompts and answers in steady turn."""
        tpot = self.decode_s(concurrency)
        answering, prompts, chunk = self._steady(concurrency)
        decoding, share = self.decode_s(answering), prompts / chunk
        step = share * self.mixed_s(answering, chunk) + (1 - share) * decoding
        return Point(
            concurrency=concurrency,
            tpot_ms=tpot * 1e3,
            ttft_ms=self.prefill_s() * 1e3,
            itl_ms=step * 1e3,
            decode_tokens_per_s=concurrency / tpot,
            output_tokens_per_s=answering / step,
            prompt_share=1 - decoding / step,
        )

    def _steady(self, concurrency: int) -> tuple[float, float, float]:
        """Where as many prompts begin as answers end: the sequences that decode in a step (fewer
        than `concurrency` where prompts fill the steps), prompt tokens for each step, and how many
        tokens a step that has some takes: a whole prompt's, as far as a step has room for it."""
        ratio = self.workload.isl / self.workload.osl
        answering = min(float(concurrency), self.serving.step_tokens / (1 + ratio))
        prompts = answering * ratio
        whole = min(float(self.workload.isl), self.serving.step_tokens - answering)
        return answering, prompts, max(prompts, whole)

    def decode_s(self, sequences: float) -> float:
        """Seconds of a decoding step."""
        return sum(self.decode_terms(sequences).values())

    def decode_terms(self, sequences: float) -> dict[str, float]:
        """Seconds of a decoding step of so many sequences, by what they go to."""
        efficiency, terms = self.efficiency, self._terms(sequences, 0)
        terms.pop("prompts")
        sorting = self.model.layer_count("E") * self.experts.fixed_s
        steady = {"experts": sorting, "overhead": self.overhead_s()}
        for name, seconds in terms.items():
            fixed = steady.get(name, 0.0)
            terms[name] = efficiency.fixed * fixed + efficiency.work * (seconds - fixed)
        terms["overhead"] += max(0.0, self._host_s(sequences) - sum(terms.values()))
        return terms

    def mixed_s(self, sequences: float, tokens: float) -> float:
        """Seconds of a step that decodes so many sequences and takes `tokens` of prompts, too."""
        more = self._prompts_s(self._terms(sequences, tokens))
        return self.decode_s(sequences) + more - self._prompts_s(self._terms(sequences, 0))

    def prefill_s(self) -> float:
        """Seconds from a prompt's arrival at an idle server to its first token."""
        whole, rest = divmod(self.workload.isl, self.serving.step_tokens)
        seconds = whole * self._prompts_s(self._terms(0, self.serving.step_tokens))
        return seconds + (self._prompts_s(self._terms(0, rest)) if rest else 0.0)

    def _prompts_s(self, terms: dict[str, float]) -> float:
        """Seconds of such terms where they are those of prompts."""
        others = sum(terms.values()) - terms["experts"]
        return terms["experts"] / self.efficiency.prefill_experts + others / self.efficiency.prefill

    def _terms(self, sequences: float, tokens: float) -> dict[str, float]:
        """Seconds on the GPU of a step that decodes and takes prompt tokens, not calibrated."""
        efficiency, bandwidth, isl = (
            self.efficiency,
            self.gpu.bandwidth_bytes_per_s,
            self.workload.isl,
        )
        both = sequences + tokens
        keys = sequences * (isl + self.workload.osl / 2) * self.kv_bytes
        states = 2 * sequences * self.state_bytes  # read and written
        return {
            "experts": self.model.layer_count("E") * self.expert_layer_s(both),
            "other_weights": self.other_s(both, sequences + tokens / isl),
            "attention": keys / (bandwidth * efficiency.kv),
            "state": states / (bandwidth * efficiency.passes),
            "overhead": self.overhead_s() + self.all_reduce_s(both),
            "prompts": self.pass_s(tokens) + self.scores_s(tokens),
        }

    def scores_s(self, tokens: float) -> float:
        """Seconds of attention's scores and values for prompt tokens, which look at half of the
        prompt on average."""
        attention = self.model.attention
        operations = 4 * tokens * (self.workload.isl / 2) * attention.num_heads * attention.head_dim
        operations *= self.model.layer_count("*") / self.gpus
        return operations / (self.gpu.bf16_flops * self.rates.scores)

    def _host_s(self, sequences: float) -> float:
        """Seconds that the server's processor needs for a step."""
        efficiency = self.efficiency
        return efficiency.fixed * (efficiency.host_s + efficiency.host_sequence_s * sequences)

    def expert_layer_s(self, tokens: float) -> float:
        """Seconds of one layer's routed experts, on average where layers differ: the weights of the
        distinct experts that a batch hits, and two operations a weight for each choice of a
        token."""
        layers = self.model.expert_layers
        if not layers:
            return 0.0
        values = sum(moe.routed_values for moe in layers)
        seconds = (
            count * self._experts_s(moe, moe.routed_values / values, tokens)
            for moe, count in Counter(layers).items()
        )
        return sum(seconds) / len(layers)

    def _experts_s(self, moe: Moe, part: float, tokens: float) -> float:
        """Seconds of the experts of a layer that holds `part` of all experts' weights."""
        hit = distinct(moe.num_experts, moe.top_k, tokens, self.efficiency.skew)
        here = fullest(hit / self.gpus, min(hit, moe.num_experts / self.gpus), self.gpus)
        weights = self.expert_bytes * part * here / moe.num_experts
        share = moe.top_k / moe.num_experts * uneven(self.gpus) / self.gpus
        operations = 2 * self.expert_values * part * share * tokens
        read = weights / (self.gpu.bandwidth_bytes_per_s * self.experts.bandwidth)
        return self.experts.fixed_s + read + operations / self.expert_flops

    def other_s(self, tokens: float, outputs: float) -> float:
        """Seconds of all weights but routed experts, embedding table and MTP layers, for `tokens`
        tokens of which `outputs` go through the head. Reading and multiplying overlap in part:
        measured products follow the root of the sum of both squares."""
        size = multiplied = 0.0
        for role, total in self.held.bytes_by_role.items():
            if role in (Role.EXPERT, Role.EMBEDDING, Role.MTP):
                continue
            parts = 1 if role in WHOLE_ROLES else self.gpus
            size += total / parts
            rows = outputs if role is Role.HEAD else tokens
            fp8 = self.held.fp8_values_by_role.get(role, 0)
            others = self.held.values_by_role[role] - fp8
            multiplied += 2 * rows / parts * (others / self.flops + fp8 / self.fp8_flops)
        read = size / (self.gpu.bandwidth_bytes_per_s * self.rates.weights)
        return math.hypot(read, multiplied)

    def pass_s(self, tokens: float) -> float:
        """Seconds of what moves activations of a prompt: norms and residuals of every layer, and
        Mamba's convolution, scan and gated norm."""
        m, model = self.model.mamba, self.model
        token = 4 * 2 * model.hidden_size * len(model.pattern)
        scan = SCAN_PASSES * 4 * m.state_values / SCAN_CHUNK
        mamba = 2 * (3 * m.conv_channels + 5 * m.inner) + scan
        moved = tokens * (token + model.layer_count("M") * mamba / self.gpus)
        return moved / (self.gpu.bandwidth_bytes_per_s * self.efficiency.passes)

    def overhead_s(self) -> float:
        """Seconds of a step that no batch changes, but for the experts' own."""
        pattern, layer_s = self.model.pattern, self.rates.layer_s
        return self.efficiency.step_s + sum(s * pattern.count(at) for at, s in layer_s.items())

    def all_reduce_s(self, tokens: float) -> float:
        """Seconds of the sums over GPUs, one a layer and one for the embedding: a ring moves
        2 (N - 1) / N of the hidden states through each link."""
        count, efficiency = self.gpus, self.efficiency
        if count == 1:
            return 0.0
        size = 2 * self.model.hidden_size * tokens * 2 * (count - 1) / count
        rate, latency = self.gpu.link_bytes_per_s * efficiency.link, efficiency.link_s
        if self.gpu.fabric == "pcie" or (self.gpu.fabric == "bridge" and count > 2):
            rate, latency = rate / (count / 2) ** efficiency.crowd, latency * count
        return (len(self.model.pattern) + 1) * (latency + size / rate)


def _assumptions(speed: Speed) -> tuple[str, ...]:
    efficiency = speed.efficiency
    lines = [
        "an estimate from bytes and operations over the share of each rate that measured kernels "
        "reach; not a measurement",
        "docs/planner.md has the shares, and how far off published figures this is",
        f"tokens prefer experts by rank^-{efficiency.skew:g}; requests begin as steadily as they "
        "end, and prompts share steps with decoding; the first token is that of an idle server",
    ]
    if speed.rates.like:
        lines.append(f"the shares of SM{speed.rates.sm} are {speed.rates.source}")
    if speed.experts.caveat:
        lines.append(f"{speed.quant.key.upper()} experts: {speed.experts.caveat}")
    if any(kind.inputs for kind in speed.quant.recipe.formats):
        lines.append("products of NVFP4 are counted at the rate of BF16: prompts may be faster")
    if speed.gpus > 1:
        lines.append("several GPUs: one all-reduce a layer over the link of the GPU's usual node")
    if efficiency != DEFAULT:
        lines.append(
            f"scaled to a load test, whose levels it meets within {efficiency.off:.0%}: the work "
            f"of a batch takes {efficiency.work:.2f} times as long, the fixed part of a step "
            f"{efficiency.fixed:.2f} times, a prompt {DEFAULT.prefill / efficiency.prefill:.2f} "
            "times"
        )
    return tuple(lines)
