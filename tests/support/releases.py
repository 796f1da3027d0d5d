"""A web server that gives out official releases of the control plane's programs, as far as a test publishes them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nodeyard.local.versions import KUBERNETES, this_platform


class Releases:
    """A web server with the files that it is given."""

    def __init__(self) -> None:
        files: dict[str, bytes] = {}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = files.get(self.path)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.files = files
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def publish_kubernetes(self, binary: str, content: bytes, *, checksum_of: bytes | None = None) -> None:
        """A binary of the pinned release for this machine, with the checksum of what it is or should be."""
        path = f"/release/v{KUBERNETES}/bin/{this_platform().os}/{this_platform().arch}/{binary}"
        checksum = hashlib.sha256(content if checksum_of is None else checksum_of).hexdigest()
        self.files |= {path: content, f"{path}.sha256": checksum.encode()}

    def publish_on_github(
        self, repository: str, version: str, asset: str, content: bytes, digest: str | None
    ) -> None:
        self.files[f"/{repository}/releases/download/v{version}/{asset}"] = content
        release = {"assets": [{"name": asset, "digest": digest}]}
        self.files[f"/repos/{repository}/releases/tags/v{version}"] = json.dumps(release).encode()


@pytest.fixture
def releases() -> Iterator[Releases]:
    site = Releases()
    thread = threading.Thread(target=site.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield site
    site.server.shutdown()
    site.server.server_close()
    thread.join()
