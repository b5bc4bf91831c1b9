"""Quantities as Kubernetes writes them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from rlhf.cluster.names import quantity


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1500m", "1.5"), ("16Gi", 16 * 2**30), ("4", 4), ("2e3", 2000), ("1E3", 1000), ("1E", 10**18), ("-5k", -5000),
        ("100n", "1e-7"), ("5.", 5), (".5", "0.5"), (3, 3), (0.5, "0.5"),
    ],
)
def test_quantities(text: object, number: str | int) -> None:
    assert quantity(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", ".", "1..2", "2 Ti", "Gi", "1e999", "16GB", "1e", None, True, [], "٣"])
def test_what_is_no_quantity(text: object) -> None:
    assert quantity(text) is None
