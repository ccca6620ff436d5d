"""Quantities in every spelling that the API server reads."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.k8s.quantities import parse_quantity

BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
LARGEST = 2**63 - 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1Pi", 2**50),
        ("24e9", 24 * 10**9),
        ("1.5E3", 1500),
        ("1E", 10**18),
        ("2e-3", Fraction(2, 1000)),
        ("500m", Fraction(1, 2)),
        ("100u", Fraction(1, 10**4)),
        ("1n", Fraction(1, 10**9)),
        ("+1", 1),
        ("-1Ki", -1024),
        (".5Gi", 2**29),
        ("1.", 1),
        ("0.1n", Fraction(1, 10**9)),
        ("007", 7),
        (8, 8),
        (0.25, Fraction(1, 4)),
        (1e21, LARGEST),
        ("16Ei", LARGEST),
        ("1e999999999", LARGEST),
        ("1e-999999999", Fraction(1, 10**9)),
        ("0e999999999", 0),
    ],
)
def test_a_spelling_of_kubernetes_is_read(text: object, value: Fraction | int) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "much", "1 Gi", "1gi", "1KB", "1K", "e3", ".", "1e", "1e3Gi", "1.2.3", "0x10", "1_000",
     "٣", "1\n", True, None, [], float("inf"), float("nan"), "9" * 5000],
)  # fmt: skip
def test_what_is_no_quantity_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        parse_quantity(text)


digits = st.integers(0, 10**6)


@given(digits, st.integers(0, 999), st.sampled_from([*BINARY, *DECIMAL]), st.sampled_from("+- "))
def test_number_and_suffix_are_multiplied(
    whole: int, thousandths: int, suffix: str, sign: str
) -> None:
    number = whole + Fraction(thousandths, 1000)
    unit = 2 ** BINARY[suffix] if suffix in BINARY else Fraction(10) ** DECIMAL[suffix]
    expected = min(number * unit, Fraction(LARGEST))
    expected = Fraction(-(-expected * 10**9 // 1), 10**9)
    text = f"{sign.strip()}{whole}.{thousandths:03}{suffix}"
    assert parse_quantity(text) == (-expected if sign == "-" else expected)


@given(digits, st.integers(-9, 12), st.sampled_from("eE"), st.booleans())
def test_number_and_exponent_are_multiplied(
    number: int, exponent: int, letter: str, plus: bool
) -> None:
    sign = "+" if plus and exponent >= 0 else ""
    value = parse_quantity(f"{number}{letter}{sign}{exponent}")
    assert value == min(number * Fraction(10) ** exponent, LARGEST)


@given(st.integers(-(10**18), 10**18))
def test_whole_numbers_are_themselves(number: int) -> None:
    assert parse_quantity(number) == parse_quantity(str(number)) == number


@given(st.text(alphabet="0123456789.+-eEnumkKMGTPi ", max_size=12))
def test_any_text_is_a_quantity_or_refused(text: str) -> None:
    try:
        value = parse_quantity(text)
    except ValueError:
        return
    assert abs(value) <= LARGEST
    assert (value * 10**9).denominator == 1
