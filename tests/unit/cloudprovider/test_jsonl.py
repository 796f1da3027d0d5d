"""The catalogue as JSON Lines: read what was written, and refuse the rest by line and field."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from nodeyard.cli.files import InputError, read_catalogue_file
from nodeyard.cloudprovider.jsonl import CatalogueError, catalogue_lines, read_catalogue
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.cloudprovider.resolve import resolve
from tests.support.catalogue import node_class, small_market


def catalogue() -> Catalogue:
    return resolve(small_market(), node_class(), now=3.0)


def entry(**changes: object) -> str:
    return json.dumps(
        {"name": "m5.large", "capacity": {"cpu": "2"}, "allocatable": {"cpu": "1930m"}, **changes}
    )


def test_what_is_written_is_read_back_the_same() -> None:
    assert read_catalogue(catalogue_lines(catalogue())).types == catalogue().types


def test_zones_and_capacity_types_stand_in_the_written_requirements() -> None:
    written = {line["name"]: line for line in map(json.loads, catalogue_lines(catalogue()))}
    requirements = written["m5.large"]["requirements"]
    assert requirements["topology.kubernetes.io/zone"] == ["eu-west-1a", "eu-west-1b", "eu-west-1c"]
    assert requirements["karpenter.sh/capacity-type"] == ["on-demand", "spot"]
    assert requirements["topology.k8s.aws/zone-id"] == ["euw1-az1", "euw1-az2", "euw1-az3"]
    assert written["m5.large"]["allocatable"]["cpu"] == "1930m"


def test_a_file_may_be_gzipped_or_not(tmp_path: Path) -> None:
    text = "\n".join(catalogue_lines(catalogue())) + "\n\n"
    (tmp_path / "plain").write_text(text)
    with gzip.open(tmp_path / "zipped", "wt") as file:
        file.write(text)
    assert (
        read_catalogue_file(str(tmp_path / "plain")).types
        == read_catalogue_file(str(tmp_path / "zipped")).types
    )


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (entry(capacity={"cpu": "two"}), "capacity[cpu]"),
        (entry(allocatable={"memory": "-1Gi"}), "allocatable[memory]"),
        (entry(name=""), "name"),
        (entry(name=7), "name"),
        (entry(requirements={"kubernetes.io/arch": "amd64"}), "requirements"),
        (entry(offerings=[{"zone": "a", "capacityType": "spot", "price": "0.1"}]), "offerings"),
        (entry(offerings=[{"zone": "a", "capacityType": "spot", "price": -0.1}]), "offerings[0].price"),
        (entry(offerings=[{"zone": "a", "price": 0.1}]), "offerings"),
        ("{", ""),
        ("[]", ""),
    ],
)
def test_a_line_that_cannot_be_understood_is_named(line: str, field: str) -> None:
    good = next(iter(catalogue_lines(catalogue())))
    with pytest.raises(CatalogueError) as caught:
        read_catalogue([good, "", line])
    assert caught.value.line == 3
    assert field in caught.value.field
    assert "line 3" in str(caught.value)


def test_a_type_that_stands_twice_is_refused() -> None:
    with pytest.raises(CatalogueError, match=r"line 2: name: 'm5\.large' stands in the catalogue twice"):
        read_catalogue([entry(), entry()])


@pytest.mark.parametrize(
    "content", [b"", b"\x1f\x8bnonsense", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03junk", b"{]"]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "catalogue.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"catalogue\.jsonl"):
        read_catalogue_file(str(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        read_catalogue_file(str(tmp_path / "absent"))
