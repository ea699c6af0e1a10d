"""What must not be shown: secrets inside URIs, and characters that a terminal obeys.

Secrets belong in the environment (AWS_ACCESS_KEY_ID, MLFLOW_TRACKING_PASSWORD), but people type s3://KEY:SECRET@bucket
and paste signed links. `redact` takes them out of a text; it is applied to all that is logged (`redact_logs`), written
as JSON (`lingen.io.manifest`), sent to MLflow, or printed as an error.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from types import TracebackType
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"

# Lengths are bounded: hostile text must not make a pattern run for ever.
_USERINFO = re.compile(
    r"""([A-Za-z][A-Za-z0-9+.-]{0,30}:/{1,2})(?!/)
    (   [^\s/?#"'<>]{1,4096}                                     # user, or user:password
    |   [^\s/?#@:"'<>]{1,256}:(?!\d{1,5}/)[^\s@"'<>]{0,256}      # a password with / or ? in it, but no host:port/path
    )@""",
    re.VERBOSE,
)
_PARAMETER = re.compile(r"""([?&;#])([\w.%-]{1,64})=([^&;#\s"'<>]+)""")
_SECRET_NAME = re.compile(
    r"signature|token|secret|passw|credential|access-?_?key|account-?_?key|api-?_?key|accessid|authorization"
    r"|^(?:sig|key|auth|pwd|pass|sas|jwt|session|sessionid)$",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def redact(text: str) -> str:
    """A text whose URIs have *** in place of user and password, and of the values of secret query parameters.

    Text without secrets comes back as it is. The container in abfs://CONTAINER@ACCOUNT is no secret.
    """
    if ":/" in text:
        text = _USERINFO.sub(_without_user, text)
    if "=" in text:
        text = _PARAMETER.sub(_without_value, text)
    return text


def redacted(value: Any) -> Any:
    """A JSON value with `redact` applied to every text in it, names too."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redacted(k): redacted(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(v) for v in value]
    return value


def printable(text: str) -> str:
    """One line that a terminal only shows: control, escape and direction characters as \\x1b, no secrets."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), redact(text))


def redact_logs() -> None:
    """Take secrets and terminal escapes out of all that this process logs, and out of tracebacks it ends with."""
    for handler in (*logging.getLogger().handlers, logging.lastResort):
        if handler and not any(isinstance(f, _WithoutSecrets) for f in handler.filters):
            handler.addFilter(_WithoutSecrets())
    sys.excepthook = _print_traceback
    threading.excepthook = lambda ended: _print_traceback(ended.exc_type, ended.exc_value, ended.exc_traceback)


class _WithoutSecrets(logging.Filter):
    """Changes records on their way to a handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except Exception:  # the format string is wrong
            message = f"{record.msg} {record.args}"
        record.msg, record.args = "\n".join(map(printable, message.splitlines())), None
        if record.exc_info and not record.exc_text:
            record.exc_text = _traceback(*record.exc_info)
        elif record.exc_text:
            record.exc_text = redact(record.exc_text)
        return True


def _traceback(kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> str:
    lines = "".join(traceback.format_exception(kind, error, where)).splitlines()
    return "\n".join(map(printable, lines))


def _print_traceback(kind: type[BaseException], error: BaseException | None, where: TracebackType | None) -> None:
    print(_traceback(kind, error, where), file=sys.stderr)


def _without_user(found: re.Match[str]) -> str:
    scheme, user = found[1], found[2]
    if scheme.lower().startswith("abfs"):
        container, colon, _ = user.partition(":")
        return f"{scheme}{container}:{HIDDEN}@" if colon else found[0]
    return f"{scheme}{HIDDEN}@"


def _without_value(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}={HIDDEN}" if _SECRET_NAME.search(unquote(found[2])) else found[0]
