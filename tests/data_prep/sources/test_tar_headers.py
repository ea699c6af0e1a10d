import io
import struct
import tarfile
import time
import tracemalloc

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data_prep.sources.tar_headers import MAX_TEXT, TarDamage, TarMember, read_members

NAMES = st.text(st.characters(exclude_characters="\0\n", exclude_categories=["Cs"]), min_size=1, max_size=300)


def header(name=b"x.mp4", size=b"00000000012", kind=b"0", rest=b"", magic=b"ustar\x0000"):
    """A header with a right checksum, whatever it says."""
    block = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size.ljust(12, b"\0") + b"00000000000\0"
    block = (block + b" " * 8 + kind + bytes(100) + magic).ljust(345, b"\0") + rest
    block = block.ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def binary(number, length=12):
    return number.to_bytes(length, "big", signed=True) if number < 0 else b"\x80" + number.to_bytes(length - 1, "big")


def members(tmp_path, *pieces):
    path = tmp_path / "x.tar"
    path.write_bytes(b"".join(pieces))
    found = []
    with open(path, "rb") as f:
        try:
            found.extend(read_members(f))
        except TarDamage as damage:
            return [*found, str(damage)]
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=1500), st.sampled_from("fldp")), max_size=6),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.booleans(),
)
def test_members_are_those_that_tarfile_finds(tmp_path_factory, entries, form, globally):
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    options = {"pax_headers": {"comment": "ü" * 50}} if globally else {}
    count = 0
    with tarfile.open(path, "w", format=form, **options) as tar:
        for name, data, kind in entries:
            info = tarfile.TarInfo(name)
            info.type = {"f": tarfile.REGTYPE, "l": tarfile.SYMTYPE, "d": tarfile.DIRTYPE, "p": tarfile.FIFOTYPE}[kind]
            info.linkname = name if kind == "l" else ""
            info.size = len(data) if kind == "f" else 0
            try:
                tar.addfile(info, io.BytesIO(data))
                count += 1
            except ValueError:  # too long a name for ustar
                assert form == tarfile.USTAR_FORMAT
    assume(count)  # without any, tarfile refuses a global header
    with tarfile.open(path, "r:") as tar:
        expected = [TarMember(m.name, m.offset_data, m.size, False) for m in tar if m.isfile()]
    with open(path, "rb") as f:
        assert list(read_members(f)) == expected


def test_sizes_of_eight_gigabytes_are_read(tmp_path):
    path = tmp_path / "x.tar"
    for large in (
        header(size=binary(9 << 30)),
        header(b"p", b"%011o" % 19, b"x") + b"19 size=9663676416\n".ljust(512, b"\0") + header(),
    ):
        path.write_bytes(large)
        with open(path, "r+b") as f:
            f.truncate((9 << 30) + 4096)
            (found,) = read_members(f)
        assert found.size == 9 << 30


@pytest.mark.parametrize(
    "hostile",
    [
        header(size=binary(-512)),
        header(size=binary(-1024)) + bytes(512),
        header(size=b"\xff" * 12),
        header(size=binary(1 << 80)),
        header(size=b"-0000000512"),
        header(size=b"77777777777"),
        header(size=b"0x1"),
        header(size="٣".encode()),
        header(kind=b"L", size=b"77777777777"),
        header(kind=b"L", size=binary(9 << 30)),
        header(kind=b"x", size=binary(1 << 62)),
        header(kind=b"x", size=b"%011o" % 18) + b"18 size=-99999999\n".ljust(512, b"\0") + header(),
        header(kind=b"x", size=b"%011o" % 30) + (b"30 size=" + b"9" * 21 + b"\n").ljust(512, b"\0") + header(),
        header(kind=b"x", size=b"%011o" % 30) + b"0 path=aaaa\n".ljust(512, b"\0") + header(),
        header(kind=b"x", size=b"%011o" % 30) + b"3 path=aaaa\n".ljust(512, b"\0") + header(),
        header(kind=b"S", rest=bytes(482 - 345) + b"\1" + b"\xff" * 24),
        header(kind=b"S", rest=bytes(482 - 345) + b"\1") + b"\xff" * 511,
        header()[:300],
        header()[:148] + bytes(8) + header()[156:],
        b"\xff" * 512,
        b"",
    ],
)
def test_hostile_headers_end_the_list_at_once(hostile, tmp_path):
    good = header(size=b"%011o" % 5) + b"hello".ljust(512, b"\0")
    began = time.monotonic()
    tracemalloc.start()
    try:
        assert isinstance(members(tmp_path, hostile)[-1], str)
        found = members(tmp_path, good, hostile)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert found[0] == TarMember("x.mp4", 512, 5, False)
    assert isinstance(found[-1], str) or not hostile  # nothing behind a member is its end
    assert time.monotonic() - began < 5
    assert peak < 4 * MAX_TEXT


def test_ten_thousand_long_names_in_a_row_are_no_recursion(tmp_path):
    long_name = header(b"l", b"%011o" % 5, b"L", magic=b"ustar  \0") + b"a.mp4".ljust(512, b"\0")
    assert members(tmp_path, long_name * 10_000, header(size=b"0")) == [TarMember("a.mp4", 10_240_512, 0, False)]


def test_every_sparse_form_is_marked(tmp_path):
    old = (
        header(kind=b"S", size=b"%011o" % 10, rest=bytes(482 - 345) + b"\1")
        + bytes(504)
        + b"\1"
        + bytes(7)
        + bytes(512)
    )
    (found,) = members(tmp_path, old, bytes(512))
    assert found == TarMember("x.mp4", 1536, 10, True)
    record = b"22 GNU.sparse.major=1\n"
    (found,) = members(tmp_path, header(kind=b"x", size=b"%011o" % 22), record.ljust(512, b"\0"), header(), bytes(512))
    assert found.sparse


def test_both_ways_to_sum_a_header_are_accepted(tmp_path):
    block = header("ü.mp4".encode(), b"0")
    signed = sum(struct.unpack("512b", block[:148] + b" " * 8 + block[156:]))
    block = block[:148] + b"%06o\0 " % signed + block[156:]
    assert members(tmp_path, block) == [TarMember("ü.mp4", 512, 0, False)]


def test_too_many_members_are_said_to_be_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.sources.tar_headers.MAX_MEMBERS", 3)
    found = members(tmp_path, header(size=b"0") * 4)
    assert len(found) == 4
    assert "more than 3 members" in found[-1]
