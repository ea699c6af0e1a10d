import pytest

from lingen.io.stores import data_filesystem, filesystem, objection, quote_name, without_options


@pytest.mark.parametrize(
    "uri",
    [
        "s3://x/y.mp4?endpoint_override=HOST&scheme=http",
        "s3://x?endpoint_override=HOST&scheme=http",
        "S3://x/y.mp4?endpoint_override=HOST&scheme=http",
        "s3://x/y.mp4#?endpoint_override=HOST&scheme=http",
        "s3://user:password@x/y.mp4",
        "s3://user@x/y.mp4",
        "s3://%40x/y.mp4",
        "s3://x:9000/y.mp4",
        "s3:///y.mp4",
        "gs://user@x/y.mp4",
        "gs://anonymous@x/y.mp4?endpoint_override=HOST&scheme=http",
        "gcs://x/y?endpoint_override=HOST",
        "abfs://container@HOST/y.mp4",
        "abfs://HOST/y.mp4?enable_tls=false&blob_storage_authority=HOST",
        "abfs://container:password@account.dfs.core.windows.net/y.mp4",
        "abfs://container@account.dfs.core.windows.net.evil.example/y.mp4",
        "abfss://container@evil.example/y.mp4",
        "http://user:password@HOST/y.mp4",
        "http://HOST/y.mp4?token=x",
        "simplecache::http://HOST/y.mp4",
        "no uri",
    ],
)
def test_what_data_may_not_name_is_refused_before_any_request(uri, stranger):
    uri = uri.replace("HOST", stranger.address)
    assert objection(uri)
    with pytest.raises(ValueError, match="it"):
        _read(uri)
    assert stranger.requests == []


def _read(uri):
    store, path = data_filesystem(uri)
    store.open_input_file(path).read()


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/x.mp4",
        "s3://my.bucket-1/a b/ü@1,[2].mp4",
        "gs://bucket_1/x.mp4",
        "gcs://bucket/x",
        "abfs://container@account.dfs.core.windows.net/x.mp4",
        "abfss://container@account.dfs.core.chinacloudapi.cn/x.mp4",
        "abfs://account.blob.core.windows.net/container/x.mp4",
        "https://host:8080/a@b.mp4",
        "memory://bucket/x",
    ],
)
def test_plain_names_are_accepted(uri, stranger):
    assert objection(uri) == ""
    if not uri.startswith("https"):
        _, path = data_filesystem(uri)
        assert path.endswith(uri.rsplit("/", 1)[-1])


def test_a_person_may_name_an_endpoint(stranger):
    store, path = filesystem(f"s3://bucket/x?endpoint_override={stranger.address}&scheme=http")
    assert path == "bucket/x"
    with pytest.raises(OSError, match="bucket"):
        store.open_input_file(path)
    assert "AKIAEXAMPLEKEY" in stranger.requests[0]  # this is what the rules above keep from happening


def test_endpoints_of_data_come_from_the_environment(stranger, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{stranger.address}")
    store, path = data_filesystem("s3://bucket/a b?.mp4".replace("?", "%3F"))
    assert path == "bucket/a b?.mp4"
    store.get_file_info(path)
    assert "/bucket/a%20b%3F.mp4" in stranger.requests[0]


@pytest.mark.parametrize(
    ("uri", "plain"),
    [
        ("s3://bucket/set/m.csv", "s3://bucket/set/m.csv"),
        ("S3://K:S@bucket/set/m.csv?region=x/y#z", "s3://bucket/set/m.csv"),
        ("s3://bucket?region=x", "s3://bucket"),
        ("https://u:p@host:8080/m.csv?X-Amz-Credential=a/b/c", "https://host:8080/m.csv"),
        (
            "abfs://container:pw@account.dfs.core.windows.net/m.csv",
            "abfs://container@account.dfs.core.windows.net/m.csv",
        ),
    ],
)
def test_the_place_alone(uri, plain):
    assert without_options(uri) == plain


def test_listed_names_are_quoted_where_they_would_mean_something(stranger):
    assert quote_name("a b/what?#100%.mp4") == "a b/what%3F%23100%25.mp4"
    _, path = data_filesystem(f"s3://bucket/{quote_name('a b/what?#100%.mp4')}")
    assert path == "bucket/a b/what?#100%.mp4"
