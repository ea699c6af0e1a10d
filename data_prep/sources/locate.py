"""From the names in a source to places that may be read."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path

from data_prep.media.fetch import file_of, is_remote
from data_prep.sources.rows import MAX_TEXT, clean_text, strange_name
from lingen.io.redact import HIDDEN, redact
from lingen.io.stores import objection

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class Locator:
    """Resolves the names of one source and decides whether they may be read.

    Absolute local names in a manifest may point anywhere while its folder is the only root: their author meant them.
    Everything else that is local stays below the roots, with links followed.

    Args:
        base: where relative names start, a folder or a remote prefix; None for names that were found by listing.
        roots: folders (or the one file) that local names may not leave, beside the base.
        schemes: URI schemes that are allowed.
    """

    def __init__(self, base: Path | str | None, roots: Sequence[str | Path], schemes: tuple[str, ...]):
        self._base, self._schemes = base, schemes
        self._remote_base = base if isinstance(base, str) and is_remote(base) else ""
        self._anywhere = base is not None and not self._remote_base and not roots
        own = [] if base is None or self._remote_base else [base]
        self._named = "folder that is read" if base is None else "manifest's folder"
        self._roots = [os.path.realpath(root) for root in (*own, *roots)]
        self._real_folders: dict[str, str] = {}

    def locate(self, uri: object) -> tuple[str, str]:
        """(the absolute path or URI of a name, why it is refused: "" if it is not). A refused one shows no secrets."""
        if not isinstance(uri, str) or not uri.strip():
            return "", "bad_row: no uri"
        uri = uri.strip() if self._base is not None else uri
        if len(uri) > MAX_TEXT or strange_name(uri):
            return _shown(uri), "bad_row: the uri holds control characters or is too long"
        scheme = _SCHEME.match(uri)
        if scheme and scheme[1].lower() != "file":
            return self._remote(scheme[1].lower(), uri[scheme.end() :])
        local = uri[scheme.end() :] if scheme else uri
        if self._remote_base:
            return self._below_remote(local, absolute=bool(scheme))
        path = local if self._base is None else os.path.normpath(os.path.join(self._base, local))
        if self._anywhere and os.path.isabs(local):
            return path, ""
        if not self.inside(file_of(path)):
            return path, f"outside_root: the file lies outside the {self._named} and --source.roots"
        return path, ""

    def inside(self, path: str | Path) -> bool:
        """Whether a file, with links followed, lies below one of the roots."""
        real = self._real(os.fspath(path))
        return any(real == root or real.startswith(root.rstrip("/") + "/") for root in self._roots)

    def _remote(self, scheme: str, rest: str) -> tuple[str, str]:
        uri = f"{scheme}://{rest}"
        if scheme not in self._schemes or "::" in uri:
            return _shown(uri), f"scheme_not_allowed: {scheme[:40]}:// is not in --source.schemes"
        if reason := objection(file_of(uri)):
            return _shown(uri), f"unsafe_uri: {reason}"
        return uri, ""

    def _below_remote(self, name: str, absolute: bool) -> tuple[str, str]:
        path = posixpath.normpath(name)
        if absolute or path.startswith(("/", "..")):
            return _shown(name), "outside_root: a manifest in an object store may only name files below its folder"
        uri = f"{self._remote_base}/{path}"
        if reason := objection(file_of(uri)):
            return _shown(uri), f"unsafe_uri: {reason}"
        return uri, ""

    def _real(self, path: str) -> str:
        """os.path.realpath, with the folders remembered: most files of a source share few."""
        folder, name = os.path.split(path)
        try:
            if os.path.islink(path):
                return os.path.realpath(path)
            if folder not in self._real_folders:
                self._real_folders[folder] = os.path.realpath(folder)
        except RecursionError:  # a chain of a thousand links; the system opens none of more than 40
            return ""
        return os.path.join(self._real_folders[folder], name)


def _shown(uri: str) -> str:
    """A refused name as it may be stored: on one line, without user, password, query and fragment."""
    if "://" in uri and len(uri) > MAX_TEXT:  # the end of a password may be far away
        return f"{clean_text(uri.partition('://')[0], 40)}://{HIDDEN}"
    return clean_text(re.sub("([?#]).*", rf"\1{HIDDEN}", redact(uri), flags=re.DOTALL), MAX_TEXT)
