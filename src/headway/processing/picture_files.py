"""What a picture's file costs to read, found without reading it: a stranger chose how many parts it has.

Pillow goes through a file's segments or chunks in Python, and libjpeg goes over all pixels once for each scan of a
progressive JPEG; a file of some MB could hold millions of either.

Sources: ITU-T T.81, annex B (JPEG markers); W3C PNG, third edition, section 5 (chunks).
"""

import re

from headway.core.errors import RequestError

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_MOST_PARTS = 50_000  # chunks or segments
_MOST_SCANS = 50  # encoders write about ten
_END, _SCAN = 0xD9, 0xDA
# Within a scan, FF is followed by 0 where it is data, and by D0 to D7 at a restart; FF can fill up before a marker.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_WITHOUT_LENGTH = (0x01, 0xD8)


def require_few_parts(data: object) -> None:
    """Raise `RequestError` unless this is a JPEG or PNG file that costs no more than its pixels do."""
    if not isinstance(data, bytes):
        raise RequestError(f"must be the bytes of a file, not {type(data).__name__}")
    if data.startswith(_PNG):
        parts, scans = _chunks(data), 0
    elif data.startswith(_JPEG):
        parts, scans = _segments(data)
    else:
        raise RequestError("it is neither a JPEG nor a PNG file")
    if parts > _MOST_PARTS or scans > _MOST_SCANS:
        raise RequestError(f"the file has more than {_MOST_PARTS:,} parts or {_MOST_SCANS} scans")


def _chunks(data: bytes) -> int:
    """Chunks of a PNG file, counted until there are too many."""
    at, count = len(_PNG), 0
    while at < len(data) and count <= _MOST_PARTS:
        at += 12 + int.from_bytes(data[at : at + 4], "big")  # length, name, content, checksum
        count += 1
    return count


def _segments(data: bytes) -> tuple[int, int]:
    """Segments and scans of a JPEG file up to its end, counted until there are too many; what follows is not read."""
    at, count, scans = len(_JPEG), 0, 0
    while count <= _MOST_PARTS and scans <= _MOST_SCANS and (found := _MARKER.search(data, at)) is not None:
        marker, at = found[1][0], found.end()
        if marker == _END:
            break
        count += 1
        scans += marker == _SCAN
        if marker not in _WITHOUT_LENGTH:
            at += int.from_bytes(data[at : at + 2], "big")
    return count, scans
