from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.core.errors import UsageError
from nemotron_deploy.loadtest import endpoint


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("grpc://localhost:8001", "localhost:8001"),
        ("grpc://triton.default.svc.cluster.local:8001/", "triton.default.svc.cluster.local:8001"),
        ("10.0.0.7:8001", "10.0.0.7:8001"),
        ("grpc://[::1]:8001", "[::1]:8001"),
    ],
)
def test_accepted_forms(url: str, target: str) -> None:
    assert endpoint.parse(url) == target


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://localhost:8000", "HTTP"),
        ("https://localhost", "HTTP"),
        ("grpcs://localhost:8001", "unknown scheme 'grpcs'"),
        ("grpc://localhost", "has no port"),
        ("localhost", "has no port"),
        ("localhost:0", "has no port"),
        ("localhost:99999", "not an address"),
        ("grpc://user@localhost:8001", "not an address"),
        ("grpc://localhost:8001/v2", "not an address"),
        ("grpc://:8001", "not an address"),
        ("", "not an address"),
    ],
)
def test_other_forms_say_what_to_use(url: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        endpoint.parse(url)
    assert "grpc://localhost:8001" in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    try:
        target = endpoint.parse(text)
    except UsageError:
        return
    assert endpoint.parse(target) == target
