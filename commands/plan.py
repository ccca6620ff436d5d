"""`plan`: what fits, who can run it, how fast, and what it costs."""

from __future__ import annotations

import typer

from ..core.errors import RefusedError
from ..model.catalog import DEFAULT_CHECKPOINT
from ..model.spec import Workload
from . import options as opt
from .terminal import console, printed


def plan(
    gpu: opt.AnyGpuOption = None,
    quant: opt.AnyQuantOption = None,
    group_size: opt.GroupSizeOption = None,
    recipe: opt.RecipeOption = None,
    checkpoint: opt.CheckpointOption = DEFAULT_CHECKPOINT,
    gpus: opt.GpusOption = 1,
    context: opt.ContextOption = None,
    concurrency: opt.ConcurrencyOption = None,
    max_num_tokens: opt.MaxNumTokensOption = None,
    mamba_state: opt.MambaStateOption = None,
    kv_cache: opt.KvCacheOption = None,
    isl: opt.IslOption = 1024,
    osl: opt.OslOption = 256,
    matrix: opt.MatrixOption = False,
    optimize: opt.OptimizeOption = "cost",
    price: opt.PriceOption = None,
    max_tpot: opt.MaxTpotOption = 50.0,
    calibrate_from: opt.CalibrateFromOption = None,
    engine: opt.EngineOption = "tensorrt-llm",
    trtllm: opt.TrtllmOption = None,
    vllm: opt.VllmOption = None,
    against: opt.AgainstOption = None,
    html: opt.HtmlOption = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Say what fits, who can run it, how fast, and what it costs."""
    from ..api.plan import PlanRequest, answer, compare
    from ..api.plan_result import PlanResult

    request = PlanRequest(
        checkpoint,
        Workload(
            context,
            concurrency,
            isl,
            osl,
            gpus,
            max_num_tokens=max_num_tokens,
            mamba_state=mamba_state,
            kv_cache=kv_cache,
        ),
        gpu=gpu,
        quant=quant,
        price=price,
        max_tpot_ms=max_tpot,
        optimize=optimize,
        group_size=group_size,
        recipe=recipe,
        calibrate_from=calibrate_from,
        engine=engine,
        trtllm=trtllm,
        vllm=vllm,
        against=against,
    )
    result = compare(request) if matrix else answer(request)
    if html is not None:
        from ..views.plan_page import write

        write(html, result)
    if not printed(as_json, result.to_json()):
        from ..views import plan as view

        view.show_result(console(), result)
    if isinstance(result, PlanResult) and result.refused:
        raise typer.Exit(RefusedError.exit_code)
