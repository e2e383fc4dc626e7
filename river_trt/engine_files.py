"""An engine's files, held open while they are checked and read: what was hashed is what is used.

The libraries behind a session open files by their names. So a loaded engine is confirmed at the
end: every name still leads to the file that was hashed, and nothing has touched that file since.
"""

import errno
import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType

from river_trt.errors import EngineError
from river_trt.manifest import REBUILD, FileInfo, Manifest
from river_trt.plain_file import NotPlainError, open_plain, read_plain, sha256_of
from river_trt.private_memory import make_private

MANIFEST_FILE = "manifest.json"
MOST_MANIFEST_BYTES = 16 << 20
Identity = tuple[int, int, int, int, int]
_one_at_a_time = (
    threading.Lock()
)  # what another thread maps or unmaps meanwhile is not ours to move


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file that is held open, so that its name may come to mean another one."""

    path: Path
    descriptor: int
    identity: Identity  # when it was opened


class EngineFiles:
    """The manifest, and the files that it lists; files that it does not list are ignored."""

    def __init__(self, directory: Path) -> None:
        """Raises EngineError for a directory that is missing, no engine, or lists a path that
        leaves it or a file that is absent, no plain file or of another size.
        """
        self.manifest = read_manifest(directory)
        self._files: list[OpenFile] = []
        try:
            for name, info in self.manifest.files.items():
                self._files.append(_open_file(directory, name, info))
        except BaseException:
            self.close()
            raise

    def verify(self) -> None:
        """Compare every file with its hash in the manifest; EngineError where one is another."""
        for file, (name, info) in zip(self._files, self.manifest.files.items(), strict=True):
            if sha256_of(file.descriptor) != info.sha256:
                raise EngineError(
                    f"{name} is damaged: its SHA-256 is not the manifest's; "
                    f"copy the engine again or {REBUILD}"
                )

    def hold(self) -> None:
        """Keep writers waiting, where this process may: the kernel grants that for 45 seconds."""
        for file in self._files:
            with suppress(OSError):  # another user's file, or a file system without leases
                # The default signal, SIGIO, would end the process.
                fcntl.fcntl(file.descriptor, fcntl.F_SETSIG, signal.SIGURG)
                fcntl.fcntl(file.descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)

    def confirm(self) -> None:
        """After the last file was read by its name; what is mapped becomes this process' own.

        From here on nothing that happens to the files reaches this process. Raises EngineError
        where a file was changed or replaced since it was opened.
        """
        make_private({file.identity[:2] for file in self._files})
        for file in self._files:
            try:
                found = _identity(os.stat(file.path))
            except OSError:
                found = None
            if not found == _identity(os.fstat(file.descriptor)) == file.identity:
                raise EngineError(
                    f"{file.path.name} was changed or replaced while the engine was loaded; "
                    "load it again when nothing writes to it"
                )

    def close(self) -> None:
        while self._files:
            os.close(self._files.pop().descriptor)

    def __enter__(self) -> "EngineFiles":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@contextmanager
def loading(directory: Path, verify: bool) -> Iterator[Manifest]:
    """Check an engine's files, and let the block read and map them by their names.

    Raises EngineError as EngineFiles does, before the block or after it.
    """
    with EngineFiles(directory) as files:
        files.hold()
        if verify:
            files.verify()
        with _one_at_a_time:
            yield files.manifest
            files.confirm()


def read_manifest(directory: Path) -> Manifest:
    """manifest.json of an engine directory; EngineError, in one sentence, where there is none."""
    try:
        is_directory = directory.is_dir()
    except (OSError, ValueError):  # a loop of links, a name that no file can have
        is_directory = False
    if not is_directory:
        raise EngineError(f"{directory} is not a directory; build an engine with `river-trt build`")
    try:
        text = read_plain(directory / MANIFEST_FILE, MOST_MANIFEST_BYTES).decode("utf-8")
    except FileNotFoundError as error:
        raise EngineError(
            f"{directory} holds no {MANIFEST_FILE}, so it is not a river engine; "
            "build one with `river-trt build`"
        ) from error
    except NotPlainError as error:
        raise EngineError(f"{MANIFEST_FILE} {error.strerror}; {REBUILD}") from error
    except OSError as error:
        raise EngineError(
            f"{directory / MANIFEST_FILE} cannot be read: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise EngineError(f"{MANIFEST_FILE} is not UTF-8 text; {REBUILD}") from error
    return Manifest.from_json(text)


def _open_file(directory: Path, name: str, info: FileInfo) -> OpenFile:
    file = directory / name
    _check_place(directory, name)
    try:
        descriptor = open_plain(file)
    except NotPlainError as error:
        raise EngineError(f"{name} {error.strerror}; do not use this engine") from error
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise EngineError(
                f"{name} is missing from {directory}; copy it again or {REBUILD}"
            ) from error
        raise EngineError(f"{name} cannot be opened: {error.strerror}") from error
    opened = OpenFile(file, descriptor, _identity(os.fstat(descriptor)))
    size = opened.identity[2]
    if size != info.size:
        os.close(descriptor)
        raise EngineError(
            f"{name} has {size} bytes instead of {info.size}; copy the engine again or {REBUILD}"
        )
    return opened


def _check_place(directory: Path, name: str) -> None:
    parts = PurePosixPath(name).parts
    try:
        inside = _is_inside(directory.resolve(), (directory / name).resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name that no file can have
        inside = False
    if not parts or name.startswith("/") or "\\" in name or ".." in parts or not inside:
        raise EngineError(
            f"manifest.json lists {name!r}, which leaves the engine directory; "
            "do not use this engine"
        )


def _is_inside(directory: Path, target: Path) -> bool:
    """Whether a file, its links followed, is the directory's own.

    In the hub's cache a directory's files are links into its repository's blobs:
    models--org--name/snapshots/<commit>/... beside models--org--name/blobs/<hash>.
    """
    if target.is_relative_to(directory):
        return True
    repositories = (above.parent for above in directory.parents if above.name == "snapshots")
    return any(target.parent == repository / "blobs" for repository in repositories)


def _identity(status: os.stat_result) -> Identity:
    """Changes when the file does: nobody can set the last one, not even the file's owner."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
