"""Damage to real files: the kinds that broken downloads, careless tools and hostile authors make.

Every mutation is a function of (content, generator) alone, so a seed replays a case.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable

Mutation = Callable[[bytearray, random.Random], bytearray]

HEADER = 4096
"""Bytes at either end where most formats keep what a reader believes."""
TAGS = rb"Exif|moov|trak|tkhd|mdhd|stsd|stts|stco|co64|stsz|elst|colr|pasp|avc1|hvcC|esds|uuid|st3d|sv3d|udta|meta|ilst"
TAGS += (
    rb"|RIFF|LIST|strh|strf|avih|idx1|\x1aE\xdf\xa3|\x16T\xaek|OggS|theora|IHDR|iCCP|tEXt|\xff\xd8|\xff\xe1|WEBP|VP8X"
)
BOX = re.compile(
    rb"ftyp|moov|trak|mdia|minf|stbl|stsd|stts|stco|stsz|stsc|tkhd|mdhd|mvhd|udta|meta|free|mdat|moof|traf|trun"
)
CODECS = re.compile(
    rb"avc1|hvc1|hev1|mp4v|vp09|av01|jpeg|XVID|DIVX|MJPG|H264|V_MPEG4/ISO/AVC|V_MPEGH/ISO/HEVC|V_VP8|V_VP9|V_AV1|mp4a"
)
TIFF = re.compile(rb"II\*\0|MM\0\*")
PLAYLISTS = (
    b"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
    b"ffconcat version 1.0\nfile /etc/hostname\n",
    b"v=0\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
)
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def flip_bits(data: bytearray, random: random.Random) -> bytearray:
    """Turn up to 64 bits, half of the time near the beginning or the end."""
    near = random.random() < 0.5
    for _ in range(random.choice((1, 2, 8, 64))):
        at = random.randrange(min(HEADER, len(data)) if near else len(data))
        at = len(data) - 1 - at if near and random.random() < 0.5 else at
        data[at] ^= 1 << random.randrange(8)
    return data


def cut_off(data: bytearray, random: random.Random) -> bytearray:
    """Keep the first part alone."""
    return data[: random.randrange(len(data))]


def drop_middle(data: bytearray, random: random.Random) -> bytearray:
    """Leave out, or write twice, a piece of the middle."""
    first, last = sorted(random.randrange(len(data)) for _ in range(2))
    last = min(last, first + 65536)
    return data[:first] + (data[first:last] * random.choice((0, 2))) + data[last:]


def change_box(data: bytearray, random: random.Random) -> bytearray:
    """Give a box of an mp4 another size or name."""
    boxes = [m.start() for m in BOX.finditer(data) if m.start() >= 4]
    if not boxes:
        return flip_bits(data, random)
    at = random.choice(boxes)
    if random.random() < 0.7:
        size = struct.unpack_from(">I", data, at - 4)[0]
        struct.pack_into(">I", data, at - 4, random.choice((*NUMBERS, max(0, size - 1), min(size + 1, 2**32 - 1))))
    else:
        data[at : at + 4] = bytes(random.randrange(256) for _ in range(4))
    return data


def change_fields(data: bytearray, random: random.Random) -> bytearray:
    """Overwrite numbers right behind the names that readers look for: orientation, sizes, codecs, colours, rates."""
    found = [m.end() for m in re.finditer(TAGS, data)]
    if not found:
        return flip_bits(data, random)
    for _ in range(random.choice((1, 2, 5))):
        at = random.choice(found) + random.randrange(64)
        if at + 4 <= len(data):
            kind = random.choice((">I", "<I", ">H", "<H", "B"))
            struct.pack_into(kind, data, at, random.choice(NUMBERS) % (1 << 8 * struct.calcsize(kind)))
    return data


def overwrite_text(data: bytearray, random: random.Random) -> bytearray:
    """Put bytes that are no UTF-8, NULs, or an endless word where metadata has text."""
    words = [m.span() for m in re.finditer(rb"[A-Za-z][\w .:/-]{5,60}", data[: HEADER * 4] + data[-HEADER * 4 :])]
    if not words:
        return flip_bits(data, random)
    first, last = random.choice(words)
    filler = random.choice((b"\xff", b"\x00", b"\xc3", b"%s", b"9", b"\n"))
    data[first:last] = (filler * (last - first))[: last - first]
    return data


def change_codec(data: bytearray, random: random.Random) -> bytearray:
    """Say that the content is coded otherwise, or in a way that nobody knows."""
    found = list(CODECS.finditer(data))
    if not found:
        return change_fields(data, random)
    first, last = random.choice(found).span()
    other = random.choice((random.choice(found)[0], b"zzzz", b"avc1", b"hvc1", b"png ", b"\0\0\0\0", b"mp4v"))
    data[first:last] = other[: last - first].ljust(last - first, b"X")
    return data


def change_exif(data: bytearray, random: random.Random) -> bytearray:
    """Give entries of a TIFF directory (EXIF is one) another tag, type, count or value; JPEGs without one get one."""
    if data[:2] == b"\xff\xd8" and not TIFF.search(data):
        exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x04" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" * 4 + bytes(4)
        data[2:2] = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    found = [m.start() for m in TIFF.finditer(data)]
    if not found:
        return change_fields(data, random)
    start = random.choice(found)
    order = "<" if data[start : start + 2] == b"II" else ">"
    first = start + int.from_bytes(data[start + 4 : start + 8], "little" if order == "<" else "big")
    for _ in range(random.choice((1, 2, 4))):
        at = first + 2 + 12 * random.randrange(12)
        offset, kind, values = random.choice(
            (
                (0, "H", (0x0112, 0x0100, 0x8769, 0x8825, 0x9286, 0x014A)),
                (2, "H", range(14)),
                (4, "I", NUMBERS),
                (8, "I", NUMBERS),
            )
        )
        if at + 12 <= len(data):
            struct.pack_into(order + kind, data, at + offset, random.choice(values))
    return data


def put_in_front(data: bytearray, random: random.Random) -> bytearray:
    """Begin like a playlist of other files, over the content or before it."""
    playlist = random.choice(PLAYLISTS)
    return bytearray(playlist) + (data[len(playlist) :] if random.random() < 0.5 else data)


MUTATIONS: tuple[Mutation, ...] = (
    *(
        flip_bits,
        cut_off,
        drop_middle,
        change_box,
        change_fields,
        overwrite_text,
        change_codec,
        change_exif,
        put_in_front,
    ),
)


def mutated(content: bytes, seed: int) -> tuple[bytes, str]:
    """The content damaged as the seed says, once to three times, and the names of the mutations."""
    generator = random.Random(seed)
    data, names = bytearray(content), []
    for _ in range(generator.choice((1, 1, 2, 3))):
        if not data:
            break
        mutation = generator.choice(MUTATIONS)
        data = mutation(data, generator)
        names.append(mutation.__name__)
    return bytes(data), "+".join(names)
