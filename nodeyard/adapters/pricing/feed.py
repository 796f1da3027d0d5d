"""Fetches a price feed from where a person keeps it: a file, an HTTP(S) address or an S3 object; gzipped or not.

Gives the bytes and when they were last changed; what they mean is `cloudprovider.feed`'s business. Blocks in a thread
of its own or the session's. Everything that goes wrong is raised as Unreachable with the feed's address.
"""

import asyncio
import email.utils
import gzip
import http.client
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from nodeyard.cloudprovider.errors import Unreachable

T = TypeVar("T")
_TIMEOUT_S: Final = 10.0
_LARGEST: Final = 64 * 2**20
_GZIP: Final = b"\x1f\x8b"


class Session(Protocol):
    """What is needed of the way to AWS."""

    async def run(self, service: str, operation: str, work: Callable[[Any], T]) -> T: ...


def problem_of(address: str) -> str:
    """Why nothing can be fetched from this address; empty: nothing is known against it."""
    parts = urlsplit(address)
    if parts.scheme in ("", "file"):
        return "" if parts.path else "no path"
    if parts.scheme == "s3":
        return "" if parts.netloc and parts.path.strip("/") else "s3://BUCKET/KEY is wanted"
    if parts.scheme in ("http", "https"):
        return "" if parts.netloc else "no host"
    return f"{parts.scheme}:// is none of file, http, https, s3"


async def fetch(address: str, session: Session) -> tuple[bytes, float]:
    """The feed's content, unpacked, and when it was last changed (Unix seconds). Raises CloudError's subclasses."""
    parts = urlsplit(address)
    if parts.scheme == "s3":
        raw, at = await session.run(
            "s3", "GetObject", lambda client: _object(client, parts.netloc, unquote(parts.path.lstrip("/")))
        )
    else:
        try:
            read = _file if parts.scheme in ("", "file") else _page
            raw, at = await asyncio.to_thread(read, address)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(f"{error}", operation=address) from error
    return _unpacked(raw, address), at


def _file(address: str) -> tuple[bytes, float]:
    path = Path(unquote(urlsplit(address).path) if address.startswith("file:") else address)
    with path.open("rb") as file:
        return file.read(_LARGEST + 1), path.stat().st_mtime


def _page(address: str) -> tuple[bytes, float]:
    request = urllib.request.Request(address, headers={"User-Agent": "nodeyard"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        told = answer.headers.get("Last-Modified") or answer.headers.get("Date") or ""
        at = email.utils.parsedate_to_datetime(told).timestamp() if told else 0.0
        return answer.read(_LARGEST + 1), at


def _object(client: Any, bucket: str, key: str) -> tuple[bytes, float]:
    answer = client.get_object(Bucket=bucket, Key=key)
    return answer["Body"].read(_LARGEST + 1), answer["LastModified"].timestamp()


def _unpacked(raw: bytes, address: str) -> bytes:
    try:
        text = gzip.decompress(raw) if raw.startswith(_GZIP) else raw
    except (OSError, EOFError, zlib.error) as error:
        raise Unreachable(f"not gzip after all: {error}", operation=address) from error
    if len(raw) > _LARGEST or len(text) > 4 * _LARGEST:
        raise Unreachable(f"larger than {_LARGEST >> 20} MiB", operation=address)
    return text
