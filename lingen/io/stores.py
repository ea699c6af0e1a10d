"""Object stores and servers as pyarrow file systems, for URIs of two kinds: typed by a person, or read from data.

A URI can carry more than a place: s3://bucket/x?endpoint_override=HOST sends the user's keys to HOST. Who types a
command may do that. A manifest or a listing may not: what they name goes through `data_filesystem`, which opens plain
names only; endpoints, regions and credentials then come from the environment (AWS_ENDPOINT_URL, ...).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from pyarrow import fs

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)(.*)", re.DOTALL)
_ARROW = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_AZURE = re.compile(
    r"(?:[a-z0-9$-]+@)?[a-z0-9-]+\.(?:dfs|blob)\.(?:core\.(?:windows\.net|chinacloudapi\.cn|usgovcloudapi\.net)"
    r"|fabric\.microsoft\.com)",
    re.IGNORECASE,
)


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """(pyarrow file system, path in it) of a URI that a person typed; options such as ?region= are obeyed.

    Schemes that pyarrow does not know go through fsspec.
    """
    from pyarrow import fs

    if uri.partition("://")[0] in _ARROW:
        return fs.FileSystem.from_uri(uri)
    import fsspec

    inner, path = fsspec.core.url_to_fs(uri)
    return fs.PyFileSystem(fs.FSSpecHandler(inner)), path


def data_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """Like `filesystem`, for a URI that was read from data.

    Raises:
        ValueError: the URI holds more than a place (`objection`); no request was made.
    """
    if reason := objection(uri):
        raise ValueError(reason)
    scheme, host, path = _parts(uri)
    # Names may have spaces and letters of any language; what is percent-encoded stays so.
    path = quote(path, safe="/%:@!$&'()*+,;=~") if scheme in _ARROW else path
    return filesystem(f"{scheme}://{host}{path}")


def objection(uri: str) -> str:
    """Why a remote URI from data may not be opened, "" when it may.

    It must not have a query, a fragment, credentials, or a host of its own choice for a store that gets ours.
    """
    if not _URI.fullmatch(uri) or "::" in uri:
        return "it is no plain SCHEME://PLACE/NAME"
    scheme, host, _ = _parts(uri)
    if "?" in uri or "#" in uri:
        return "it has a query or fragment; endpoints and options come from the environment"
    if scheme in ("abfs", "abfss"):
        if not _AZURE.fullmatch(host) and not re.fullmatch(r"[A-Za-z0-9-]+", host):
            return f"{scheme} names are CONTAINER@ACCOUNT.dfs.core.windows.net/NAME, without a password"
    elif "@" in host:
        return "it has a user or password; credentials come from the environment"
    elif scheme in ("s3", "gs", "gcs") and not _BUCKET.fullmatch(host):
        return "its bucket's name is not valid"
    return ""


def without_options(uri: str) -> str:
    """A remote URI that a person typed, as the place alone: without credentials, query and fragment."""
    scheme, host, path = _parts(uri)
    user, at, server = re.split("[?#]", host, maxsplit=1)[0].rpartition("@")
    if at and scheme.startswith("abfs"):  # CONTAINER[:PASSWORD]@ACCOUNT
        server = f"{user.partition(':')[0]}@{server}"
    return f"{scheme}://{server}{re.split('[?#]', path, maxsplit=1)[0]}"


def quote_name(path: str) -> str:
    """A path from a listing as the end of a URI: % ? and # would mean something else there."""
    return re.sub("[%?#]", lambda found: f"%{ord(found[0]):02X}", path)


def _parts(uri: str) -> tuple[str, str, str]:
    found = _URI.fullmatch(uri)
    assert found is not None
    return found[1].lower(), found[2], found[3]
