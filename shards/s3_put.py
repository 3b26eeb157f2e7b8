"""How does a finished file come to be an object, whole or not at all?

With one put, or above `ONE_PUT` bytes in parts that become an object only with the last request. Each goes with its
MD5, so that what arrives damaged or cut is refused and sent again; afterwards the store is asked for the object's size.
A put whose answer was lost is made again: both are the same bytes. Parts of an upload that was given up are deleted;
those of a process that was killed stay until the bucket's lifecycle rule takes them (docs/object_stores.md).

Memory: one part.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from typing import Any, BinaryIO

from winnow.shards import s3
from winnow.shards.storage_errors import StorageError, UnusableError

ONE_PUT = 64 << 20
PART, MOST_PARTS = 32 << 20, 10_000
"""Bytes of a part, more where S3's number of parts asks for it."""


def put_file(location: str, path: str) -> None:
    """Make an object of a local file. Raises StorageError and its kinds, OSError of the file."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        etag = put(location, file.read()) if size <= ONE_PUT else _put_parts(location, file, size)
    _check(location, size, etag)


def put(location: str, data: bytes) -> str:
    """Make an object of `data`; its ETag."""
    answer = s3.request(location, "put_object", Body=data, ContentMD5=_md5(data))
    return s3.etag_of(answer)


def copy(source: str, target: str) -> None:
    """Make an object of another on the same store, which copies it itself; up to 5 GiB."""
    there = s3.known(source)
    bucket_from, key_from = s3.place(source)
    s3.request(
        target,
        "copy_object",
        CopySource={"Bucket": bucket_from, "Key": key_from},
        CopySourceIfMatch=f'"{there.etag}"',
    )
    _check(target, there.size)


def _check(location: str, size: int, etag: str | None = None) -> None:
    """Raises StorageError where the object is not as long as what was put; another's with other bytes is no matter."""
    there = s3.facts(location)
    if there is None or (there.size != size and etag in (None, there.etag)):
        held = "nothing" if there is None else f"{there.size:,} bytes"
        raise StorageError(f"{location}: the store took {size:,} bytes and holds {held}")


def _md5(data: bytes) -> str:
    return _header(hashlib.md5(data, usedforsecurity=False).digest())


def _header(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _put_parts(location: str, file: BinaryIO, size: int) -> str:
    begun = s3.request(location, "create_multipart_upload")
    upload = begun["UploadId"]
    try:
        return _send_parts(location, file, size, upload)
    except Exception:  # an interrupted process has no time for it
        bucket, key = s3.place(location)
        with contextlib.suppress(Exception):
            s3.clients.get().abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
        raise


def _send_parts(location: str, file: BinaryIO, size: int, upload: str) -> str:
    length = max(PART, -(-size // MOST_PARTS))
    parts: list[dict[str, Any]] = []
    digests = b""
    for number in range(1, -(-size // length) + 1):
        data = file.read(length)
        digest = hashlib.md5(data, usedforsecurity=False).digest()
        answer = s3.request(
            location, "upload_part", UploadId=upload, PartNumber=number, Body=data, ContentMD5=_header(digest)
        )
        parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        digests += digest
    try:
        answer = s3.request(
            location, "complete_multipart_upload", UploadId=upload, MultipartUpload={"Parts": parts}
        )
        return s3.etag_of(answer)
    except UnusableError:
        # The upload is gone: the answer to an attempt that did it was lost, or somebody deleted the parts.
        there = s3.facts(location)
        etag = f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"
        if there is None or there.size != size or (there.etag != etag and not _other_etags(parts, digests)):
            raise
        return there.etag


def _other_etags(parts: list[dict[str, Any]], digests: bytes) -> bool:
    """Whether this store's ETags are not MD5s (encrypted with keys of its own)."""
    return parts[0]["ETag"].strip('"') != digests[:16].hex()
