"""Uploads on their way to the disk: a temporary file, and the fields and the file of a form."""

import asyncio
import hashlib
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from speechmtp.server.config import Limits
from speechmtp.server.http.messages import Request
from speechmtp.server.protocols.contract import Refused

# It would log what clients send.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL + 1)

PARTS = 64  # of a form
FIELD = 64 << 10  # bytes of a field
_AT_ONCE = 1 << 20  # bytes that are written at a time, in a thread
_FILE = "file"


class Spool:
    """A temporary file that is written in a thread. `size` counts its bytes, `digest` is their SHA-256."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.size = 0
        self._number, self.path = tempfile.mkstemp(prefix="speechmtp-upload-")
        self._held = bytearray()
        self._hash = hashlib.sha256()
        self._writing: asyncio.Future[None] | None = None

    @property
    def digest(self) -> str:
        """The SHA-256 of what was written, in hexadecimal digits."""
        return self._hash.hexdigest()

    async def write(self, data: bytes | bytearray) -> None:
        """Add bytes. Refused for too many, and where the disk is full."""
        self.size += len(data)
        if self.size > self._most:
            raise too_large(self._most)
        self._held += data
        if len(self._held) >= _AT_ONCE:
            await self.flush()

    async def flush(self) -> None:
        """Write what is held back."""
        data, self._held = bytes(self._held), bytearray()
        self._writing = asyncio.ensure_future(asyncio.to_thread(self._put, data))
        try:
            await asyncio.shield(self._writing)
        except OSError as error:
            reason = error.strerror or error
            raise Refused(507, "no_room", f"the upload finds no room ({reason}); try again later") from None

    async def reserve(self, size: int) -> None:
        """Leave room for bytes that `put_first` writes, before any others; they do not count."""
        await asyncio.to_thread(os.lseek, self._number, size, os.SEEK_SET)

    async def put_first(self, data: bytes) -> None:
        """Write the first bytes, once all others are written."""
        await asyncio.to_thread(os.pwrite, self._number, data, 0)

    def _put(self, data: bytes) -> None:
        self._hash.update(data)
        view = memoryview(data)
        while len(view):
            view = view[os.write(self._number, view) :]

    async def delete(self) -> None:
        """Delete the file, once no thread writes to it."""
        try:
            if self._writing is not None:
                await asyncio.wait([self._writing])
        finally:
            os.close(self._number)
            with suppress(OSError):
                os.unlink(self.path)


@asynccontextmanager
async def spooled(most: int) -> AsyncIterator[Spool]:
    """A temporary file for at most `most` bytes. Refused where none can be made."""
    try:
        spool = Spool(most)
    except OSError as error:
        raise Refused(507, "no_room", f"the upload finds no room ({error.strerror}); try again later") from None
    try:
        yield spool
    finally:
        await asyncio.shield(spool.delete())


def too_large(most: int) -> Refused:
    """The refusal of a file that is too large."""
    return Refused(413, "too_large", f"a file of more than {most} bytes, expected less; send it in pieces", _FILE)


class Form:
    """A form as it comes: its fields, by their names without `[]`, and whether its file came. The name of the file is
    not looked at."""

    def __init__(self, boundary: bytes) -> None:
        self.fields: dict[str, list[str]] = {}
        self.has_file = self.complete = False
        self.pending = bytearray()  # of the file
        self._parts = 0
        self._name, self._is_file = "", False
        self._value = bytearray()
        self._key, self._header, self._disposition = bytearray(), bytearray(), b""
        calls: Any = {
            "on_part_begin": self._begin, "on_part_data": self._data, "on_part_end": self._end,
            "on_header_field": self._header_field, "on_header_value": self._header_value,
            "on_header_end": self._header_end, "on_headers_finished": self._headers_finished, "on_end": self._all,
        }  # fmt: skip
        self.parser = MultipartParser(boundary, calls)

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > PARTS:
            raise Refused(400, "too_many_parts", f"a form of more than {PARTS} parts, expected fewer")
        self._disposition = b""
        self._value.clear()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._key += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_end(self) -> None:
        if self._key.lower() == b"content-disposition":
            self._disposition = bytes(self._header)
        self._key.clear()
        self._header.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if not name:
            raise Refused(400, "bad_form", "a part of the form without a name, expected one; correct it")
        self._name, self._is_file = name.removesuffix("[]"), name == _FILE
        if self._is_file and self.has_file:
            raise Refused(400, "bad_form", "several files in the form, expected one; send each alone", _FILE)
        if not self._is_file and b"filename" in options:
            raise Refused(400, "bad_form", f"a file that is not called {_FILE} in the form; call it so", _FILE)
        self.has_file = self.has_file or self._is_file

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.pending += data[start:end]
            return
        self._value += data[start:end]
        if len(self._value) > FIELD:
            raise Refused(413, "too_large", f"a field of more than {FIELD} bytes, expected less", self._name[:64])

    def _end(self) -> None:
        if not self._is_file:
            try:
                self.fields.setdefault(self._name, []).append(self._value.decode("utf-8"))
            except UnicodeDecodeError:
                raise Refused(400, "bad_form", "a field that is no UTF-8 text; correct it", self._name[:64]) from None

    def _all(self) -> None:
        self.complete = True


async def read_form(request: Request, spool: Spool, limits: Limits) -> dict[str, Sequence[str]]:
    """The fields of a form; its file goes into the spool. Refused for what is no whole form with one file."""
    kind, options = parse_options_header(request.header("content-type"))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise Refused(
            415 if kind != b"multipart/form-data" else 400, "bad_form",
            "Content-Type: expected multipart/form-data with a boundary, and the audio in its part `file`", _FILE,
        )  # fmt: skip
    most = limits.upload + PARTS * FIELD
    if request.length is not None and request.length > most:
        raise too_large(limits.upload)
    try:
        form = Form(boundary)
        came = 0
        async for data in request.body:
            came += len(data)
            if came > most:
                raise too_large(limits.upload)
            form.parser.write(data)
            if form.pending:
                await spool.write(form.pending)
                form.pending.clear()
        form.parser.finalize()
    except FormParserError:
        raise Refused(400, "bad_form", "a form that is broken; correct it") from None
    if not form.complete:
        raise Refused(400, "bad_form", "a form that ends too soon; send all of it")
    if not form.has_file:
        raise Refused(400, "missing_file", "a form without a file, expected the audio in its part `file`", _FILE)
    await spool.flush()
    return dict(form.fields)
