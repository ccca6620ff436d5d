"""kubectl's failures in our words: what it printed is recorded from kubectl 1.34."""

from __future__ import annotations

import pytest

from nemotron_deploy.core.errors import BadInputError, CheckFailedError, NemoDeployError
from nemotron_deploy.k8s.deploy.errors import (
    ConflictError,
    ForbiddenError,
    UnreachableError,
    error_of,
    warnings_in,
)

CALL = "kubectl apply --server-side --field-manager=nemo-deploy -k dist/x/k8s"
HINT = """
Please review the fields above--they currently have other managers. Here
are the ways you can resolve this warning:
* If you intend to manage all of these fields, please re-run the apply
  command with the `--force-conflicts` flag.
"""

CASES: dict[str, tuple[str, type[NemoDeployError], tuple[str, ...]]] = {
    "refused": (
        'E1127 23:14:41.330489   31213 memcache.go:265] "Unhandled Error" err="couldn\'t get '
        'current server API group list"\n'
        "The connection to the server 127.0.0.1:1 was refused - did you specify the right host or "
        "port?\n",
        UnreachableError,
        ("no cluster answers: The connection to the server 127.0.0.1:1 was refused", "VPN"),
    ),
    "timeout": (
        "Unable to connect to the server: net/http: TLS handshake timeout\n",
        UnreachableError,
        ("no cluster answers: Unable to connect to the server",),
    ),
    "unauthorized": (
        "error: You must be logged in to the server (Unauthorized)\n",
        BadInputError,
        ("does not accept the credentials", "log in again"),
    ),
    "plugin": (
        "Unable to connect to the server: getting credentials: exec: executable "
        "gke-gcloud-auth-plugin not found\n",
        BadInputError,
        ("kubectl cannot log in", "gke-gcloud-auth-plugin", "install the credential plugin"),
    ),
    "certificate": (
        "Unable to connect to the server: tls: failed to verify certificate: x509: certificate "
        "signed by unknown authority\n",
        BadInputError,
        ("certificate is not accepted: certificate signed by unknown authority",),
    ),
    "namespace": (
        'Error from server (NotFound): namespaces "llm" not found\n',
        BadInputError,
        ("the namespace llm does not exist", "kubectl create namespace llm"),
    ),
    "forbidden": (
        'Error from server (Forbidden): deployments.apps is forbidden: User "eve" cannot list '
        'resource "deployments" in API group "apps" in the namespace "llm"\n',
        ForbiddenError,
        ("eve may not list deployments", "ask an administrator"),
    ),
    "conflict": (
        'error: Apply failed with 1 conflict: conflict with "kubectl-set" using apps/v1: '
        '.spec.template.spec.containers[name="c"].image' + HINT,
        ConflictError,
        (
            'kubectl-set owns .spec.template.spec.containers[name="c"].image.',
            f"\n  {CALL} --force-conflicts",
        ),
    ),
    "conflicts": (
        'error: Apply failed with 3 conflicts: conflict with "hpa" using apps/v1: .spec.replicas\n'
        'conflicts with "argocd" using apps/v1:\n- .metadata.labels.team\n- .spec.paused' + HINT,
        ConflictError,
        ("hpa owns .spec.replicas; argocd owns .metadata.labels.team, .spec.paused.",),
    ),
    "immutable": (
        'The Job "nano-fill-0123456789" is invalid: spec.template: Invalid value: {"x": 1}: field '
        "is immutable\n",
        CheckFailedError,
        ('Job "nano-fill-0123456789" cannot be changed in place', "delete it"),
    ),
    "crd": (
        'error: resource mapping not found for name: "nano" namespace: "" from "k8s": no matches '
        'for kind "ScaledObject" in version "keda.sh/v1alpha1"\nensure CRDs are installed first\n',
        BadInputError,
        ("does not know ScaledObject of keda.sh/v1alpha1", "CRD"),
    ),
    "diff": (
        'error: failed to run "diff": exec: "diff": executable file not found in $PATH\n',
        BadInputError,
        ("needs the program `diff`", "install diffutils"),
    ),
    "old": ("error: unknown flag: --server-side\n", BadInputError, ("too old", "--server-side")),
    "webhook": (
        'Error from server: admission webhook "policy" denied the request: no team label\n',
        CheckFailedError,
        ('the cluster refuses the manifests: admission webhook "policy" denied',),
    ),
    "unknown": ("error: something new\n", BadInputError, ("kubectl failed: something new",)),
    "silent": ("", BadInputError, ("kubectl failed: without a message", CALL)),
}


@pytest.mark.parametrize("case", CASES)
def test_failures_are_told_with_what_to_do(case: str) -> None:
    text, kind, parts = CASES[case]
    error = error_of(text, CALL)
    assert type(error) is kind
    for part in parts:
        assert part in str(error)
    assert "memcache.go" not in str(error)


def test_the_command_that_takes_fields_over_changes_something() -> None:
    error = error_of(CASES["conflict"][0], f"{CALL} --dry-run=server --output=json")
    assert "--dry-run" not in str(error)


def test_warnings_are_told_once() -> None:
    text = "Warning: a is deprecated\nI1127 noise\nWarning: a is deprecated\nWarning: b\n"
    assert warnings_in(text) == ("a is deprecated", "b")
