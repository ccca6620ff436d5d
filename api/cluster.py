"""How a bundle gets to its cluster: which way can be taken, and how a Job builds it there."""

from __future__ import annotations

from dataclasses import replace

from ..core.errors import UsageError
from ..k8s.options import ClusterOptions
from ..model.format_request import FormatRequest
from ..model.spec import Plan, Workload
from ..quantize.options import Options
from ..sources.checkpoint_source import Source


def with_way(
    cluster: ClusterOptions, source: Source, options: Options, wanted: FormatRequest | None
) -> ClusterOptions:
    """`cluster` with the way of the weights decided: a Job builds the bundle in the cluster where
    it can, otherwise the bundle is pushed to a claim.

    Raises `UsageError` where a Job is asked for and cannot build the bundle.
    """
    why = _why_no_job(source, options, wanted)
    if cluster.weights == "job" and why is not None:
        raise UsageError(
            f"--weights job cannot be used: {why}, which the cluster does not have. Use "
            "--weights claim or --weights image, which take the bundle itself there"
        )
    return replace(cluster, weights=cluster.weights or ("claim" if why else "job"))


def _why_no_job(source: Source, options: Options, wanted: FormatRequest | None) -> str | None:
    """What a Job would lack to build the bundle, in words."""
    if source.snapshot is None and not source.embedded:
        return f"the checkpoint {source.asked} is a local directory"
    for name, path in (("calibration", options.calibration), ("heldout", options.heldout)):
        if path is not None:
            return f"--{name} names the local file {path}"
    if wanted is not None and wanted.custom is not None:
        return f"--recipe names the local file {wanted.custom.origin}"
    return None


def cluster_warnings(cluster: ClusterOptions) -> tuple[str, ...]:
    """What the user should know about the cluster before a bundle is built for it."""
    if cluster.weights == "image" or not cluster.several_pods:
        return ()
    return (
        "pods on several nodes will use the claim, so its storage class must support "
        "ReadWriteMany; --weights image needs no claim",
    )


def rebuild_options(
    source: Source,
    plan: Plan,
    options: Options,
    workload: Workload,
    wanted: FormatRequest | None,
    require_golden: bool,
) -> tuple[str, ...]:
    """The options of `nemo-deploy build` that make the same bundle on another machine. A repository
    of the hub is named with its commit."""
    values = {
        "checkpoint": source.place if source.snapshot else source.asked,
        "gpu": plan.gpu,
        "gpus": plan.gpus if plan.gpus > 1 else None,
        "engine": plan.engine.name,
        "context": workload.context,
        "concurrency": workload.concurrency,
        "max-num-tokens": workload.max_num_tokens,
        "mamba-state": workload.mamba_state,
        "kv-cache": workload.kv_cache,
    }
    words = [f"--{name}={value}" for name, value in values.items() if value is not None]
    words += str(wanted).split() if wanted else ()
    if options.recipe.smoothable and not options.taken_over:
        words.append("--smooth" if options.smooth else "--no-smooth")
    switches = {"--low-disk": options.low_disk, "--require-golden": require_golden}
    return (*words, *(switch for switch, is_on in switches.items() if is_on))
