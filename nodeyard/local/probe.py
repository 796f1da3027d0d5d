"""Asking a started process whether it answers yet.

One question only, without retries: waiting, and noticing that the process has died meanwhile, is
`processes.Processes.wait_answering`'s work.
"""

from __future__ import annotations

import ssl

import httpx


def ask(url: str, tls: ssl.SSLContext | None = None) -> httpx.Response:
    """What a GET of `url` is answered with; `tls` holds the authority to trust for https, without which nobody is
    trusted: to read the machine's own authorities takes longer than the question. Raises httpx.HTTPError.
    """
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.get(url, timeout=2.0, trust_env=False, verify=tls or nobody)


def succeeds(url: str, tls: ssl.SSLContext | None = None) -> bool:
    """Whether a GET of `url` is answered with success."""
    try:
        return ask(url, tls).is_success
    except httpx.HTTPError:
        return False


def responds(url: str) -> bool:
    """Whether anything at all answers HTTP at `url`, be it with an error."""
    try:
        ask(url)
    except httpx.HTTPError:
        return False
    return True
