"""The error that refuses a media file."""

from __future__ import annotations


class MediaError(Exception):
    """A file that cannot be used. `reason` is a short snake_case code for the ledger, `detail` a sentence."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, " ".join(detail.split())[:300]

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str]]:
        return MediaError, (self.reason, self.detail)
