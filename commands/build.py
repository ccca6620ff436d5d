"""`build`: makes a bundle: weights, engine, model repository and manifests."""

from __future__ import annotations

from ..k8s.options import ClusterOptions
from ..model.catalog import DEFAULT_CHECKPOINT
from ..model.spec import Workload
from . import cluster_options as cluster
from . import options as opt
from .terminal import console, printed, progress, show_fetch

DEFAULTS = ClusterOptions()


def build(
    gpu: opt.GpuOption,
    quant: opt.BundleQuantOption = None,
    group_size: opt.GroupSizeOption = None,
    recipe: opt.RecipeOption = None,
    checkpoint: opt.CheckpointOption = DEFAULT_CHECKPOINT,
    engine: opt.EngineOption = "tensorrt-llm",
    gpus: opt.GpusOption = 1,
    context: opt.ContextOption = None,
    concurrency: opt.ConcurrencyOption = None,
    max_num_tokens: opt.MaxNumTokensOption = None,
    mamba_state: opt.MambaStateOption = None,
    kv_cache: opt.KvCacheOption = None,
    smooth: opt.SmoothOption = None,
    calibration: opt.CalibrationOption = None,
    heldout: opt.HeldoutOption = None,
    device: opt.DeviceOption = "auto",
    low_disk: opt.LowDiskOption = False,
    require_golden: opt.RequireGoldenOption = False,
    weights: cluster.WeightsOption = None,
    platform: cluster.PlatformOption = DEFAULTS.platform,
    namespace: cluster.NamespaceOption = None,
    storage_class: cluster.StorageClassOption = None,
    runtime_class: cluster.RuntimeClassOption = None,
    registry: cluster.RegistryOption = None,
    ipv6: cluster.Ipv6Option = False,
    replicas: cluster.ReplicasOption = DEFAULTS.replicas,
    surge: cluster.SurgeOption = False,
    autoscale: cluster.AutoscaleOption = None,
    autoscaler: cluster.AutoscalerOption = DEFAULTS.autoscaler,
    prometheus: cluster.PrometheusOption = DEFAULTS.prometheus,
    dra: cluster.DraOption = False,
    gateway: cluster.GatewayOption = None,
    hostname: cluster.HostnameOption = None,
    token_secret: cluster.TokenSecretOption = DEFAULTS.token_secret,
    keep: cluster.KeepOption = DEFAULTS.keep,
    out: opt.BundleOutOption = None,
    dry_run: opt.DryRunOption = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Build a bundle: weights, engine, Triton repository, manifests.

    The bundle is a directory with the quantized checkpoint, an engine's configuration for one kind
    of GPU, a Triton model repository and Kubernetes manifests. If a build is interrupted, the same
    command resumes it.
    """
    from ..api.build import dry_run as preview_of
    from ..api.build import make, prepare

    workload = Workload(
        context=context,
        concurrency=concurrency,
        gpus=gpus,
        max_num_tokens=max_num_tokens,
        mamba_state=mamba_state,
        kv_cache=kv_cache,
    )
    job = prepare(
        checkpoint,
        gpu,
        quant,
        workload,
        out,
        group_size=group_size,
        recipe=recipe,
        calibration=calibration,
        smooth=smooth,
        device=device,
        heldout=heldout,
        low_disk=low_disk,
        engine_name=engine,
        require_golden=require_golden,
        cluster=ClusterOptions(
            weights=weights,
            platform=platform,
            namespace=namespace,
            storage_class=storage_class,
            runtime_class=runtime_class,
            registry=registry,
            ipv6=ipv6,
            replicas=replicas,
            surge=surge,
            autoscale=autoscale,
            autoscaler=autoscaler,
            prometheus=prometheus,
            dra=dra,
            gateway=gateway,
            hostname=hostname,
            token_secret=token_secret,
            keep=keep,
        ),
    )
    preview = preview_of(job)
    if dry_run:
        if not printed(as_json, preview.to_json()):
            from ..views.results import dry_run as view

            show_fetch(preview.fetch)
            view(console(), preview)
        return
    show_fetch(preview.fetch)
    with progress(as_json) as listener:
        result = make(job, listener)
    if not printed(as_json, result.to_json()):
        from ..views.results import built

        built(console(), result)
