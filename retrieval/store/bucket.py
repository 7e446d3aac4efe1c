"""A place at an fsspec URL: object storage with conditional writes where the backend has them.

`s3://` (s3fs): `create` is PutObject with `If-None-Match: *`, `replace` is PutObject with `If-Match: <ETag>`; the
server answers 412 to the one that came second. `memory://`: compare and write under a lock of this process. Any other
backend can be read and filled, but a conditional write there is refused: two jobs could both believe that they won.
Retries and time limits are the client's own, bounded by the settings. Knows nothing about generations.
"""

from __future__ import annotations

import hashlib
import http.client
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from retrieval.errors import FailedPrecondition, MissingDependency, RetrievalError, StoreError
from retrieval.store.folder import reason
from retrieval.store.place import Held, RemoteSettings

_S3 = {"s3", "s3a"}
_REFUSED = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
_BEYOND = frozenset({"InvalidRange", "416"})
_NO_BUCKET = frozenset({"NoSuchBucket"})
_CREDENTIALS = frozenset({"NoCredentialsError", "PartialCredentialsError"})
_UNREACHABLE = frozenset({"EndpointConnectionError", "ConnectTimeoutError"})
# the settings that the client reads by itself
_GIVE_CREDENTIALS = "in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in a profile named by AWS_PROFILE, or as a role"
_PART_BYTES = 16 << 20
_MEMORY_LOCK = threading.Lock()
_READS = 5  # a small file that changes between its version and its bytes is read again


class BucketPlace:
    """Objects below an fsspec URL, as a `Place`."""

    local = False

    def __init__(self, url: str, settings: RemoteSettings) -> None:
        self.where = url.rstrip("/")
        self._settings = settings
        self._protocol = url.split(":", 1)[0].lower()
        self._fs, self._root = _filesystem(self.where, self._protocol, settings)

    def read(self, name: str) -> Held | None:
        """See `Place`."""
        path = self._path(name)
        with self._calling("read", name):
            for _ in range(_READS):
                try:
                    before = self._version(path)
                    data = self._bytes(path)
                    if before is None:
                        return Held(data=data, version=hashlib.sha256(data).hexdigest())
                    if before == self._version(path):
                        return Held(data=data, version=before)
                except FileNotFoundError:
                    return None
        raise StoreError(f"cannot read {self.where}/{name}: it changed {_READS} times while it was read; try again")

    def create(self, name: str, data: bytes) -> Held | None:
        """See `Place`; FailedPrecondition where the backend has no conditional writes."""
        if self._protocol in _S3:
            return self._conditional(name, data, lambda path: self._fs.pipe_file(path, data, mode="create"))
        return self._in_memory(name, data, None)

    def replace(self, name: str, data: bytes, expected: Held) -> Held | None:
        """See `Place`; FailedPrecondition where the backend has no conditional writes."""
        if self._protocol in _S3:
            return self._conditional(name, data, lambda path: self._fs.pipe_file(path, data, IfMatch=expected.version))
        return self._in_memory(name, data, expected)

    def _conditional(self, name: str, data: bytes, write: Callable[[str], Any]) -> Held | None:
        with self._calling("write", name):
            try:
                answer = write(self._path(name))
            except Exception as error:
                # over an object that has gone, If-Match is answered with 404
                if isinstance(error, FileExistsError) or _answered(error, _REFUSED | {"NoSuchKey"}):
                    return None
                raise
        return Held(data=data, version=str(answer["ETag"]))

    def _in_memory(self, name: str, data: bytes, expected: Held | None) -> Held | None:
        if self._protocol != "memory":
            raise FailedPrecondition(
                f"{self.where} cannot be written by a job that must be alone: {self._protocol} has no conditional "
                "writes here; use s3:// or a folder"
            )
        with _MEMORY_LOCK:
            found = self.read(name)
            if (found and found.version) != (expected and expected.version):
                return None
            self._fs.pipe_file(self._path(name), data)
        return Held(data=data, version=hashlib.sha256(data).hexdigest())

    def put(self, source: Path, name: str) -> None:
        """See `Place`; large files go in parts, which become an object only when all are there."""
        size = source.stat().st_size
        bounds: dict[str, Any] = {"callback": _no_standstill(source, size)}
        if self._protocol in _S3:
            # s3fs alone would hold ten parts of 50 MiB per file; a server takes 10,000 parts
            bounds |= {"chunksize": max(_PART_BYTES, size // 9_000), "max_concurrency": 2}
        with self._calling("write", name):
            self._fs.put_file(str(source), self._path(name), **bounds)

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """See `Place`."""
        if stop <= start:
            return b""
        with self._calling("read", name):
            try:
                return self._bytes(self._path(name), start=start, end=stop)
            except Exception as error:
                if _answered(error, _BEYOND):  # the file ends before `start`
                    return b""
                raise

    def sizes(self, folder: str) -> dict[str, int]:
        """See `Place`."""
        top = self._path(folder)
        with self._calling("list", folder):
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(top, detail=True)
            except FileNotFoundError as error:
                self._check_bucket(error)
                return {}
        return {name[len(top) :].lstrip("/"): int(info["size"]) for name, info in sorted(found.items())}

    def children(self, folder: str) -> list[str]:
        """See `Place`."""
        with self._calling("list", folder):
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._path(folder), detail=False)
            except (FileNotFoundError, NotADirectoryError) as error:
                self._check_bucket(error)
                return []
        return sorted({name.rstrip("/").rsplit("/", 1)[-1] for name in found})

    def delete(self, names: Sequence[str]) -> None:
        """See `Place`."""
        for name in names:
            with self._calling("remove", name):
                try:
                    self._fs.rm_file(self._path(name))
                except FileNotFoundError:
                    continue

    def abandoned(self, folder: str, *, remove: bool) -> int:
        """See `Place`; on S3 they are multipart uploads, invisible and paid for."""
        if self._protocol not in _S3:
            return 0
        bucket, key, _ = self._fs.split_path(self._path(folder))
        with self._calling("list", folder):
            answer = self._fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key.rstrip("/") + "/")
            found = answer.get("Uploads", [])
            for upload in found if remove else ():
                self._fs.call_s3(
                    "abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
        return len(found)

    def _bytes(self, path: str, **bounds: int) -> bytes:
        """A file or a part of it; the client tries requests again by itself, but not answers that break off."""
        for attempt in Retrying(
            stop=stop_after_attempt(self._settings.attempts),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            retry=retry_if_exception_type(_broken_off()),
            reraise=True,
        ):
            with attempt:
                return bytes(self._fs.cat_file(path, **bounds))
        raise AssertionError("a retried call returns or raises")

    def _version(self, path: str) -> str | None:
        if self._protocol not in _S3:
            return None
        return str(self._fs.info(path, refresh=True)["ETag"])

    def _check_bucket(self, error: OSError) -> None:
        """StoreError where a listing is empty because the bucket itself is missing."""
        if _answered(error, _NO_BUCKET):
            bucket = self._root.split("/", 1)[0]
            raise StoreError(
                f"cannot list {self.where}: the storage has no bucket {bucket!r}; make it, or correct the URL, or "
                "AWS_ENDPOINT_URL where another storage is meant"
            ) from error

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    @contextmanager
    def _calling(self, verb: str, name: str) -> Iterator[None]:
        """Turn what a backend raises into a StoreError of one sentence; a missing file stays what it is for reads."""
        try:
            yield
        except RetrievalError:
            raise
        except FileNotFoundError as error:
            if verb in {"read", "list"}:
                raise
            raise StoreError(f"cannot {verb} {self.where}/{name}: no such bucket or folder") from error
        except PermissionError as error:
            raise StoreError(
                f"cannot {verb} {self.where}/{name}: {_first_line(error)}; give this job credentials that may"
                + (f", {_GIVE_CREDENTIALS}" if self._protocol in _S3 else "")
            ) from error
        except _backend_errors() as error:
            if type(error).__name__ in _CREDENTIALS:
                raise StoreError(
                    f"cannot {verb} {self.where}/{name}: {_first_line(error)}; give this job some, {_GIVE_CREDENTIALS}"
                ) from error
            if type(error).__name__ in _UNREACHABLE:
                endpoint = str(getattr(error, "kwargs", {}).get("endpoint_url", "the storage")).split("?", 1)[0]
                raise StoreError(
                    f"cannot {verb} {self.where}/{name}: {endpoint} cannot be reached (tried {self._settings.attempts} "
                    "times); check AWS_ENDPOINT_URL, or endpoint_url of the profile, and the network"
                ) from error
            raise StoreError(
                f"cannot {verb} {self.where}/{name}: {_first_line(error)} (tried {self._settings.attempts} times); run "
                "it again when the storage answers"
            ) from error


def _no_standstill(source: Path, size: int) -> Any:
    """A callback that ends an upload of `size` bytes which sends nothing any more; fsspec would go on for ever."""
    from fsspec.callbacks import Callback

    class Sent(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            if inc == 0 and size:
                raise StoreError(f"{source} became shorter than its {size:,} bytes while it was sent: send it again")
            super().relative_update(inc)

    return Sent()


def _filesystem(url: str, protocol: str, settings: RemoteSettings) -> tuple[Any, str]:
    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False, **settings.options}
    if protocol in _S3:
        options["config_kwargs"] = {
            "connect_timeout": settings.connect_timeout_s,
            "read_timeout": settings.read_timeout_s,
            "retries": {"total_max_attempts": settings.attempts, "mode": "standard"},
            **options.get("config_kwargs", {}),
        }
    try:
        filesystem, root = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise MissingDependency(
            f"{url} needs a package that is not installed ({error}); for s3:// install retrieval[s3]"
        ) from error
    except (ValueError, TypeError) as error:
        raise StoreError(f"{url} cannot be opened: {error}; use a folder or an s3:// URL") from error
    if protocol in _S3:
        filesystem.retries = 1  # the client below it tries again by itself; both would multiply
    return filesystem, str(root)


def _backend_errors() -> tuple[type[BaseException], ...]:
    """What the installed backends raise besides OSError; botocore's errors are no OSErrors."""
    import asyncio

    found: list[type[BaseException]] = [OSError, asyncio.TimeoutError, *_broken_off()]
    try:
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
    except ImportError:
        return tuple(found)
    return (*found, BotoCoreError, ClientError, HTTPClientError)


def _broken_off() -> tuple[type[BaseException], ...]:
    """What is raised when the body of an answer ends too early."""
    found: list[type[BaseException]] = [EOFError, http.client.IncompleteRead]
    try:
        from aiohttp import ClientPayloadError
        from botocore.exceptions import IncompleteReadError, ResponseStreamingError
    except ImportError:
        return tuple(found)
    return (*found, ClientPayloadError, IncompleteReadError, ResponseStreamingError)


def _answered(error: BaseException | None, codes: frozenset[str]) -> bool:
    """Whether the server's answer behind `error` has one of the `codes`."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict) and response.get("Error", {}).get("Code") in codes:
            return True
        error = error.__cause__
    return False


def _first_line(error: BaseException) -> str:
    text = reason(error) if isinstance(error, OSError) else str(error)
    return (text or type(error).__name__).strip().splitlines()[0].rstrip(".")
