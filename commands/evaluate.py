"""`evaluate`: benchmarks a served model with lm-eval."""

from __future__ import annotations

from . import evaluate_options as evaluation
from . import loadtest_options as load
from . import options as opt
from .terminal import console, printed, progress


def evaluate(
    target: evaluation.EvaluationTargetArgument,
    tasks: evaluation.TasksOption,
    limit: evaluation.LimitOption = None,
    num_fewshot: evaluation.FewshotOption = None,
    max_tokens: evaluation.AnswerTokensOption = None,
    thinking: evaluation.EvaluationThinkingOption = None,
    ruler_tokens: evaluation.RulerTokensOption = "4096",
    against: evaluation.AgainstOption = None,
    protocol: evaluation.EvaluationProtocolOption = "auto",
    model: load.ServedModelOption = None,
    tokenizer: load.TokenizerOption = None,
    concurrency: evaluation.ConcurrencyOption = 8,
    timeout: evaluation.AnswerTimeoutOption = 600.0,
    run_generated_code: evaluation.RunCodeOption = False,
    yours: load.OwnServerOption = False,
    out: evaluation.AnswersOption = None,
    verify: opt.VerifyOption = "quick",
    trust_code: opt.TrustOption = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Benchmark a served model or a bundle, and compare it with published scores.

    If a run is interrupted, the same command resumes it.
    """
    from ..api.evaluate import evaluate as work
    from ..api.evaluate import names, token_counts

    with progress(as_json) as listener:
        result = work(
            target,
            names(tasks),
            limit=limit,
            num_fewshot=num_fewshot,
            max_tokens=max_tokens,
            thinking=thinking,
            ruler_tokens=token_counts(ruler_tokens),
            against=against or (),
            protocol=protocol,
            model=model,
            tokenizer=tokenizer,
            concurrency=concurrency,
            timeout=timeout,
            run_generated_code=run_generated_code,
            yours=yours,
            out=out,
            verify=verify,
            trust_code=trust_code,
            progress=listener,
        )
    if not printed(as_json, result.to_json()):
        from ..views.evaluate import evaluation as view

        view(console(), result)
