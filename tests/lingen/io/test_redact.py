import json
import logging
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lingen.io.redact import HIDDEN, printable, redact, redact_logs, redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://AKIA:abc+/def@bucket/x.mp4", "s3://***@bucket/x.mp4"),
        ("https://user:p@ss@host:8080/x", "https://***@host:8080/x"),
        ("https://ghp_token@github.com/x", "https://***@github.com/x"),
        ("s3:/AKIA:secret@bucket/x", "s3:/***@bucket/x"),  # as pathlib writes it
        ("postgresql://mlflow:pw?/#@db/mlflow", "postgresql://***@db/mlflow"),
        ("at s3://a:b@c/d, then 'gs://e:f@g/h'", "at s3://***@c/d, then 'gs://***@g/h'"),
        (
            "abfs://container:password@account.dfs.core.windows.net/x",
            "abfs://container:***@account.dfs.core.windows.net/x",
        ),
        ("https://h/x?a=1&X-Amz-Signature=ab12&b=2", "https://h/x?a=1&X-Amz-Signature=***&b=2"),
        ("https://h/x?AWSAccessKeyId=AKIA1&Expires=9", "https://h/x?AWSAccessKeyId=***&Expires=9"),
        ("https://h/x?sv=2024&sig=a%2Fb%3D", "https://h/x?sv=2024&sig=***"),
        ("https://h/x?X%2DAmz%2DCredential=AKIA", "https://h/x?X%2DAmz%2DCredential=***"),
        ("https://h/x#access_token=abc", "https://h/x#access_token=***"),
        (
            "s3://b/x?access_key=a&secret_key=b&session_token=c",
            "s3://b/x?access_key=***&secret_key=***&session_token=***",
        ),
        ("Max retries for url: /api?token=abc (Caused", "Max retries for url: /api?token=*** (Caused"),
        ("<a href='https://h/?a=1&amp;api_key=abc'>", "<a href='https://h/?a=1&amp;api_key=***'>"),
    ],
)
def test_secrets_in_uris_are_hidden(text, shown):
    assert redact(text) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A key = a token: user@example.org, a:b@c",
        "https://host:8080/@user/video?v=3&list=x",
        "sqlite:////home/me@work/out/mlflow.db",
        "abfs://container@account.dfs.core.windows.net/x.mp4",
        "/data/clips#1/a@b?.mp4",
        "https://commons.wikimedia.org/wiki/File:A@b.webm?uselang=de&monkey=1",
        "three ways: keyboard=x&tokenless",
    ],
)
def test_other_text_stays_as_it_is(text):
    assert redact(text) == text
    assert redacted({"a": [text, 3, None], text: {"b": text}}) == {"a": [text, 3, None], text: {"b": text}}


# Letters that cannot be part of the text around the secret.
SECRETS = st.text(st.characters(exclude_characters="@ \"'<>&;#", exclude_categories=["Cc", "Cs", "Z"]), min_size=1).map(
    lambda text: f"Q{text}Q"
)


@given(SECRETS, SECRETS)
def test_no_password_survives(user, password):
    user = user.replace(":", "").replace("/", "").replace("?", "")
    assert redact(f"see s3://{user}:{password}@bucket/x") == "see s3://***@bucket/x"
    assert redact(f"https://h/x?a=b&token={password}") == "https://h/x?a=b&token=***"


@pytest.mark.parametrize("piece", ["a://", "://a:", "a://b:c", "https://u:p", "?a=", "?token", "&;#", "a" * 50])
def test_hostile_text_takes_no_time(piece):
    began = time.monotonic()
    redact(piece * 30_000)
    assert time.monotonic() - began < 5


def test_what_a_terminal_obeys_is_shown_as_text():
    assert printable("a\x1b[2J\rb\n\x9bc\u202ed\0") == r"a\x1b[2J\rb\n\x9bc\u202ed\x00"
    assert printable("Zwei Züge, 雪 🎬") == "Zwei Züge, 雪 🎬"
    assert printable("\udc80") == r"\udc80"
    assert printable("s3://a:b@c/d") == "s3://***@c/d"


def test_nothing_secret_is_logged(capsys):
    root, log = logging.getLogger(), logging.getLogger("somebody.else")
    handler = logging.StreamHandler(sys.stderr)
    before = sys.excepthook
    root.addHandler(handler)
    try:
        redact_logs()
        redact_logs()  # a second time changes nothing
        log.warning("cannot open %s\x1b[2J", "s3://K:SECRET@b/x")
        try:
            raise ValueError("no s3://K:SECRET@b/x")
        except ValueError:
            log.exception("failed")
        log.warning("wrong %d", "format")
    finally:
        root.removeHandler(handler)
        sys.excepthook = before
    shown = capsys.readouterr().err
    assert "SECRET" not in shown
    assert shown.count(f"s3://{HIDDEN}@b/x") >= 2
    assert "\x1b" not in shown
    assert "Traceback (most recent call last)" in shown
    assert "wrong %d ('format',)" in shown
    assert [len(handler.filters), log.filters] == [1, []]


@pytest.mark.parametrize("thread", [False, True])
def test_tracebacks_that_end_a_process_hide_secrets_too(thread):
    run = "threading.Thread(target=fail).start()" if thread else "fail()"
    code = (
        "import threading\nfrom lingen.io.redact import redact_logs\nredact_logs()\n"
        f"def fail():\n    raise OSError('s3://K:' + 'SEC' + 'RET@b')\n{run}"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "OSError: s3://***@b" in ended.stderr
    assert "SECRET" not in ended.stderr
    assert (ended.returncode != 0) != thread


def test_redacted_json_stays_json():
    value = {"uri": 's3://K:"\\S@b/x', "list": ("https://h/?token=a\\",), "s3://K:S@b": 1.5}
    assert json.loads(json.dumps(redacted(value))) == {
        "uri": 's3://K:"\\S@b/x',  # a quote ends a URI
        "list": ["https://h/?token=***"],
        "s3://***@b": 1.5,
    }
