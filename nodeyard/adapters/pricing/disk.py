"""The last known catalogue on disk, for clusters whose Redis forgets and whose AWS can't be asked.

One file per part in a directory of the service's own, replaced whole, so that a crash leaves the old or the new one.
Several replicas may share the directory. What can't be read counts as absent; what can't be written is raised as
StoreUnavailableError.
"""

import asyncio
import os
from pathlib import Path
from typing import Literal

from nodeyard.cloudprovider.market import PriceSheet, TypeTable
from nodeyard.cloudprovider.reservations import ReservationSheet
from nodeyard.cloudprovider.stored import (
    packed_reservations,
    packed_sheet,
    packed_types,
    reservations_in,
    sheet_in,
    types_in,
)
from nodeyard.runtime.leadership import StoreUnavailableError

Part = Literal["types", "on-demand", "spot", "reservations"]


class CatalogueDirectory:
    """The parts of one region's catalogue as files. Nothing is read or made before it is asked for."""

    def __init__(self, directory: Path, region: str) -> None:
        self._directory = directory
        self._region = region

    async def types(self) -> tuple[TypeTable, float] | None:
        """The last table and when it was read (Unix seconds)."""
        return types_in(await asyncio.to_thread(self._read, "types"), self._region)

    async def sheet(self, part: Part) -> PriceSheet | None:
        """The last prices of a part."""
        return sheet_in(await asyncio.to_thread(self._read, part), self._region)

    async def reservations(self) -> ReservationSheet | None:
        """The reservations as last counted."""
        return reservations_in(await asyncio.to_thread(self._read, "reservations"), self._region)

    async def save_reservations(self, sheet: ReservationSheet) -> None:
        """Keeps the reservations. Raises StoreUnavailableError."""
        raw = packed_reservations(self._region, sheet)
        await asyncio.to_thread(lambda: self._write("reservations", raw))

    async def save_types(self, table: TypeTable, asked_at: float) -> None:
        """Keeps the table. Raises StoreUnavailableError."""
        await asyncio.to_thread(lambda: self._write("types", packed_types(table, asked_at)))

    async def save_sheet(self, part: Part, sheet: PriceSheet) -> None:
        """Keeps the prices. Raises StoreUnavailableError."""
        await asyncio.to_thread(lambda: self._write(part, packed_sheet(self._region, sheet)))

    def _path(self, part: Part) -> Path:
        return self._directory / f"{self._region}-{part}.nodeyard"

    def _read(self, part: Part) -> bytes | None:
        try:
            return self._path(part).read_bytes()
        except OSError:
            return None

    def _write(self, part: Part, raw: bytes) -> None:
        path = self._path(part)
        fresh = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(raw)
            fresh.replace(path)
        except OSError as error:
            raise StoreUnavailableError(f"{path}: {error.strerror}") from error
