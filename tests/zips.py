"""Zips for tests."""

import io
import zipfile
from collections.abc import Iterable, Mapping

Members = Mapping[str, bytes] | Iterable[tuple[str, bytes]]


def write_members(members: Members, compression: int = zipfile.ZIP_STORED) -> bytes:
    """The bytes of a zip with members of these names, all of one date: the same members, the same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items() if isinstance(members, Mapping) else members:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return stream.getvalue()
