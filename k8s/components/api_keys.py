"""The component with which the OpenAI endpoint does not start without API keys."""

from __future__ import annotations

from typing import Final

from ...model.spec import Deployment
from ..objects.openai import WITHOUT_KEYS, keys_secret
from .component import Component, add, patching


def required_keys(deployment: Deployment) -> Component:
    """The component with which the endpoint does not start without keys."""
    pod = "/spec/template/spec"
    without, optional = f"{pod}/containers/1/args/6", f"{pod}/volumes/3/secret/optional"
    steps = [
        {"op": "test", "path": without, "value": WITHOUT_KEYS},
        {"op": "remove", "path": without},
        add(optional, False),
    ]
    comment = _REQUIRED_COMMENT.format(secret=keys_secret(deployment))
    return patching("api-keys", comment, {"Deployment": steps})


_REQUIRED_COMMENT: Final = """\
The OpenAI endpoint does not start without API keys: the pod waits until the Secret
{secret} exists, and then needs its entry keys.
Without this component, a missing Secret means that no key is needed. Add it in your own overlay:
    resources: [PATH/k8s]
    components: [PATH/k8s/components/api-keys]"""
