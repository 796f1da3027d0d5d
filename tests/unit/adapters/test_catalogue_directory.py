"""The last known catalogue on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeyard.adapters.pricing.disk import CatalogueDirectory
from nodeyard.runtime.leadership import StoreUnavailableError
from tests.support.catalogue import REGION, spot_sheet, table_of


async def test_what_is_saved_is_read_back_by_the_same_region_only(tmp_path: Path) -> None:
    kept, table = CatalogueDirectory(tmp_path / "new", REGION), table_of()
    assert await kept.types() is None
    await kept.save_types(table, 5.0)
    await kept.save_sheet("spot", spot_sheet(table, 6.0))
    again = CatalogueDirectory(tmp_path / "new", REGION)
    found = await again.types()
    assert found is not None
    assert (found[0].digest, found[1]) == (table.digest, 5.0)
    assert await again.sheet("spot") == spot_sheet(table, 6.0)
    assert await again.sheet("on-demand") is None
    assert await CatalogueDirectory(tmp_path / "new", "us-east-1").types() is None


def truncate(directory: Path) -> None:
    for file in directory.iterdir():
        file.write_bytes(file.read_bytes()[:100])


async def test_a_broken_file_counts_as_absent(tmp_path: Path) -> None:
    kept = CatalogueDirectory(tmp_path, REGION)
    await kept.save_types(table_of(), 5.0)
    truncate(tmp_path)
    assert await kept.types() is None


async def test_what_cannot_be_written_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailableError, match="file"):
        await CatalogueDirectory(tmp_path / "file", REGION).save_types(table_of(), 5.0)
