"""Masking of secrets in URLs that are printed, stored or logged."""

from __future__ import annotations

import re
from typing import Final

# A URL in a text, without the punctuation that ends a sentence. A URL that lacks a slash is
# recognised by the protocol of a store.
_SLIP: Final = re.compile(
    r"(?<![\w+./-])(?:s3a?|gc?s|msc|https?|abfss?|file):/?(?!/)", re.ASCII | re.IGNORECASE
)
_URL: Final = re.compile(
    rf"((?<![a-z0-9+.-])[a-z0-9+.-]*://|{_SLIP.pattern})(\S*[^\s:,;.)\]}}'\"`])",
    re.ASCII | re.IGNORECASE,
)
_AT: Final = re.compile(r".*(?:@|%40)", re.DOTALL | re.IGNORECASE)  # up to the last one
_COLON: Final = re.compile(r":|%3a", re.IGNORECASE)
_HOST: Final = re.compile(r"(?:\[[\da-f:.]*\]|[^:]*)(?::\d{1,5})?|arn:.*", re.ASCII | re.DOTALL)
_QUERY: Final = re.compile(r"\?[^/?=]+=.*", re.DOTALL)  # may hold the signature of a request
_ANY_QUERY: Final = re.compile(r"\?.*", re.DOTALL)
_WEB: Final = ("http", "https", "abfs", "abfss")  # `?` cannot be part of a name
_CONTAINERS: Final = ("abfs", "abfss", "wasb", "wasbs")  # CONTAINER@ACCOUNT is not a secret

PASSWORD: Final = "a password"
USER: Final = "a name or a secret before an @"
QUERY: Final = "a query, as in a signed URL"


def split(protocol: str, rest: str) -> tuple[str | None, str]:
    """Return which secret a URL contains, and the URL with that secret masked.

    Args:
        protocol: the part before `://`.
        rest: the part after `://`.

    Returns:
        PASSWORD, USER, QUERY or None; `rest` with the secret masked.
    """
    found = None
    host = (rest if protocol == "file" else rest.lstrip("/")).partition("/")[0]
    colon, at = _COLON.search(host), _AT.match(host)
    if (colon and _AT.match(rest)) or (at and protocol.lower() not in _CONTAINERS):
        found = PASSWORD if colon else USER
        # A secret may contain any character, including `/` and `@`.
        rest = _AT.sub("***@", rest, count=1)
    elif colon and "://" not in rest and not _HOST.fullmatch(host):
        found, rest = PASSWORD, "***"
    query = (_ANY_QUERY if protocol.lower() in _WEB else _QUERY).search(rest)
    if query:
        return found or QUERY, f"{rest[: query.start()]}?***"
    return found, rest


def masked(text: str) -> str:
    """Return a text with the secrets of all its URLs masked."""
    return _URL.sub(lambda url: url[1] + split(url[1].partition(":")[0], url[2])[1], text)


def masked_url(text: str) -> str:
    """Return one URL, which may contain spaces, with its secrets masked."""
    protocol, mark, rest = text.partition("://")
    return f"{protocol}{mark}{split(protocol, rest)[1]}" if mark else masked(text)


def is_slip(text: str) -> bool:
    """Return whether a text is a URL of a store that lacks a slash."""
    return _SLIP.match(text) is not None
