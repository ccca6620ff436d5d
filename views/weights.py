"""What became of a bundle on its way to a cluster."""

from __future__ import annotations

from rich.console import Console

from ..api.fill import FillResult
from ..api.image import ImageResult
from ..api.push import PushResult
from .parts import amount


def filled(console: Console, result: FillResult) -> None:
    """Print what was made on the claim, and what was deleted."""
    _deleted(console, result.deleted)
    state = "made" if result.made else "was there already, undamaged"
    console.print(f"{result.bundle}: {state}", markup=False, soft_wrap=True)


def packed(console: Console, result: ImageResult) -> None:
    """Print what image was made, and what to do next."""
    console.print(
        f"{result.image}: {'pushed' if result.pushed else 'built'} with {result.tool} on "
        f"{result.base}, {amount(result.bytes)} of bundle",
        markup=False,
        soft_wrap=True,
    )
    if not result.named_by_manifests:
        registry = result.image.rpartition("/")[0]
        console.print(
            "The manifests of this bundle do not run this image. Make them again with nemo-deploy "
            f"build --weights image --registry {registry}; nothing else is made again.",
            markup=False,
            soft_wrap=True,
        )


def pushed(console: Console, result: PushResult) -> None:
    """Print what was copied to the claim, and what was deleted there."""
    _deleted(console, result.deleted)
    sent = f"{amount(result.sent_bytes)} sent" if result.sent_bytes else "was there already"
    console.print(
        f"claim {result.claim} in {result.namespace}: bundle {result.digest}, {sent}",
        markup=False,
        soft_wrap=True,
    )


def _deleted(console: Console, digests: tuple[str, ...]) -> None:
    for digest in digests:
        console.print(f"deleted the older bundle {digest}", markup=False, soft_wrap=True)
