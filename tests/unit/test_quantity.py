"""Every suffix that Kubernetes writes is read, and what is rendered is read back the same."""

import pytest

from nodeyard.api.quantity import QuantityError, parse, render


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("15564Ki", 15564 * 2**10),
        ("2Mi", 2 * 2**20),
        ("3.5Gi", 7 * 2**29),
        ("1Ti", 2**40),
        ("1Pi", 2**50),
        ("1Ei", 2**60),
        ("5k", 5000),
        ("5M", 5 * 10**6),
        ("1E", 10**18),
        ("1e3", 1000),
        ("1500m", 2),
        ("0", 0),
    ],
)
def test_every_suffix_is_read(text: str, bytes_: int) -> None:
    assert parse("memory", text) == bytes_
    assert parse("memory", render("memory", bytes_)) == bytes_


@pytest.mark.parametrize("text", ["", "Ki", "1K", "1Mib", "one", "NaN"])
def test_what_is_no_quantity_is_refused_by_name(text: str) -> None:
    with pytest.raises(QuantityError, match="memory"):
        parse("memory", text)


def test_cpu_is_counted_in_millicores_rounded_up() -> None:
    assert parse("cpu", "1.5") == 1500
    assert parse("cpu", "100u") == 1
