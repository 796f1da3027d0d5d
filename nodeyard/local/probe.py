"""Asking a started process whether it answers yet.

One question only, without retries: waiting, and noticing that the process has died meanwhile, is
`processes.Processes.wait_answering`'s work.
"""

from __future__ import annotations

import ssl

import httpx


def succeeds(url: str, tls: ssl.SSLContext | bool = True) -> bool:
    """Whether a GET of `url` is answered with success; `tls` holds the authority to trust for https."""
    try:
        return httpx.get(url, timeout=2.0, trust_env=False, verify=tls).is_success
    except httpx.HTTPError:
        return False


def responds(url: str) -> bool:
    """Whether anything at all answers HTTP at `url`, be it with an error."""
    try:
        httpx.get(url, timeout=2.0, trust_env=False)
    except httpx.HTTPError:
        return False
    return True
