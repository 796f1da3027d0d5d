"""Fetching a feed from a file, a web server and an S3 stand-in, and what goes wrong on the way."""

from __future__ import annotations

import gzip
import http.server
import io
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from nodeyard.adapters.pricing.feed import fetch, problem_of
from nodeyard.cloudprovider.errors import NotFound, Unreachable

T = TypeVar("T")
CONTENT = b'{"onDemand": {"m5.large": 0.1}}'


class Bucket:
    """S3's GetObject over one object."""

    async def run(self, service: str, operation: str, work: Callable[[Any], T]) -> T:
        assert (service, operation) == ("s3", "GetObject")
        return work(self)

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803 - boto3's names
        if (Bucket, Key) != ("prices", "eu west/1.json.gz"):
            raise NotFound(f"no {Bucket}/{Key}", operation="s3:GetObject")
        return {"Body": io.BytesIO(gzip.compress(CONTENT)), "LastModified": datetime(2026, 7, 20, tzinfo=UTC)}


@pytest.fixture
def web() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/prices.json" else 404)
            self.send_header("Last-Modified", "Mon, 20 Jul 2026 00:00:00 GMT")
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, format: str, *args: object) -> None:
            return None

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


async def test_a_file_is_read_plain_or_gzipped_by_path_or_address(tmp_path: Path) -> None:
    plain, packed = tmp_path / "prices.json", tmp_path / "prices.gz"
    plain.write_bytes(CONTENT)
    packed.write_bytes(gzip.compress(CONTENT))
    for address in (str(plain), f"file://{plain}", str(packed)):
        raw, at = await fetch(address, Bucket())
        assert raw == CONTENT
        assert at > 1.7e9


async def test_a_page_is_read_with_its_time(web: str) -> None:
    assert await fetch(f"{web}/prices.json", Bucket()) == (CONTENT, 1784505600.0)


async def test_an_object_is_read_with_its_time() -> None:
    assert await fetch("s3://prices/eu%20west/1.json.gz", Bucket()) == (CONTENT, 1784505600.0)


async def test_what_cannot_be_fetched_names_the_address(web: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(CONTENT)[:-9])
    for address in (f"{web}/nothing", str(tmp_path / "none.json"), "http://127.0.0.1:9/x", str(broken)):
        with pytest.raises(Unreachable) as caught:
            await fetch(address, Bucket())
        assert address in str(caught.value)
    with pytest.raises(NotFound):
        await fetch("s3://prices/none", Bucket())


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("/var/prices.json", ""),
        ("https://prices.example/eu.json", ""),
        ("s3://bucket/key", ""),
        ("s3://bucket", "s3://BUCKET/KEY is wanted"),
        ("ftp://host/x", "ftp:// is none of"),
        ("http:///x", "no host"),
    ],
)
def test_an_address_that_cannot_work_is_told_at_once(address: str, problem: str) -> None:
    assert problem_of(address).startswith(problem)
    assert bool(problem_of(address)) == bool(problem)
