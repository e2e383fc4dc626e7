"""The engine directory: written whole or not at all, and checked before anything is opened."""

import dataclasses
import errno
import fcntl
import hashlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from river_trt.engine_files import MANIFEST_FILE, EngineFiles
from river_trt.errors import EngineError, RiverError
from river_trt.manifest import (
    EXACT,
    REBUILD,
    DraftInfo,
    FileInfo,
    Manifest,
    NamedPolicyInfo,
    PolicyInfo,
)
from river_trt.plain_file import read_plain
from river_trt.spec import ExitPolicy

UNWRITABLE = (
    errno.EACCES,
    errno.EEXIST,
    errno.EFBIG,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)


@contextmanager
def write_engine_dir(out: Path, force: bool = False) -> Iterator[Path]:
    """Yield a temporary directory that becomes `out` when the block ends well.

    After any exception, Ctrl-C or SIGTERM nothing of it is left, and an engine that `force` was to
    replace is as it was. What a killed build left behind is removed by the next one. Raises
    RiverError when `out` exists (without `force`, or if it is no engine), cannot be written, or
    the disk is full.
    """
    out = Path(out).resolve()
    created: list[Path] = []
    temporary, lock = None, None
    try:
        _check_target(out, force)
        _remove_leftovers(out)
        created = [parent for parent in out.parents if not parent.exists()]  # deepest first
        with _sigterm_raises():
            out.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=_prefix(out, "build"), dir=out.parent))
            temporary.chmod(0o755)  # mkdtemp makes it private
            lock = _lock(temporary)
            yield temporary
            _replace(temporary, out, force)
            created = []
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RiverError(
                f"the disk is full: free some space for {out} and build again"
            ) from error
        if error.errno in UNWRITABLE:
            raise RiverError(f"cannot write {out}: {error.strerror}") from error
        raise
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        for parent in created:
            if parent.exists() and not any(parent.iterdir()):
                parent.rmdir()
        if lock is not None:
            os.close(lock)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write manifest.json; the files that it lists are there by then."""
    (directory / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")


def hash_files(directory: Path) -> dict[str, FileInfo]:
    """Size and SHA-256 of every file below `directory`, manifest.json aside."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        path.relative_to(directory).as_posix(): FileInfo(path.stat().st_size, sha256(path))
        for path in files
        if path != directory / MANIFEST_FILE
    }


def sha256(path: Path) -> str:
    """Of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_engine_dir(path: Path, verify: bool = True) -> Manifest:
    """Read and check an engine directory; files that the manifest does not list are ignored.

    verify: compare the hashes too, not only presence and size. Raises EngineError for a directory
    that is missing, no engine, damaged, or lists a path that leaves it.
    """
    with EngineFiles(Path(path)) as files:
        if verify:
            files.verify()
        return files.manifest


def read_directions(
    path: Path, manifest: Manifest, policy: PolicyInfo | None = None
) -> np.ndarray | None:
    """A gate's directions, float32 [L, hidden]; None for the similarity gate.

    policy: one of the manifest's; None is what a call has by default. Raises EngineError for a
    file that cannot be read or is of another size.
    """
    name = (policy or manifest.policy).directions_file
    if name is None:
        return None
    shape = (manifest.model.shape.num_layers, manifest.model.shape.hidden_size)
    most = 4 * shape[0] * shape[1]
    try:
        data = read_plain(path / name, most)
    except OSError as error:
        raise EngineError(f"{name} cannot be read: {error.strerror}; {REBUILD}") from error
    values = np.frombuffer(data[: len(data) // 4 * 4], "<f4")
    if len(data) != most or values.size != shape[0] * shape[1]:
        raise EngineError(f"{name} must hold {list(shape)} float32 values; {REBUILD}")
    return values.astype(np.float32).reshape(shape)


def read_policies(path: Path, manifest: Manifest) -> dict[str, ExitPolicy]:
    """The policies that a call may name: EXACT, then the engine's own.

    Raises what `read_directions` does.
    """
    found = {EXACT: ExitPolicy.full_depth(manifest.model.shape.num_layers)}
    for named in manifest.policies:
        found[named.name] = named.policy.to_policy(read_directions(path, manifest, named.policy))
    return found


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class NamedPolicy:
    """A policy to be stored under a name, and what it does on held-out text.

    budget and kl are nats a token, agreement a share of positions, backbone_layers a mean a token.
    """

    name: str
    policy: ExitPolicy
    calibration: str  # how it was found, one line
    budget: float
    kl: float
    agreement: float
    backbone_layers: float


def replace_policy(
    directory: Path,
    policy: ExitPolicy,
    calibration: str,
    named: Sequence[NamedPolicy] | None = None,
) -> Manifest:
    """Give an engine another policy, without building it again.

    named: in place of the engine's named policies; None leaves them. Directions go to new files;
    the new manifest takes its place in one rename, so an engine that is interrupted here is the
    old one or the new one. Raises RiverError where it cannot be written.
    """
    manifest = read_engine_dir(directory, verify=False)
    old = manifest.directions_files
    new: dict[str, FileInfo] = {}
    try:
        stored = _store(directory, policy, calibration, new)
        policies = manifest.policies
        if named is not None:
            policies = tuple(
                NamedPolicyInfo(
                    item.name,
                    _store(directory, item.policy, item.calibration, new),
                    item.budget,
                    item.kl,
                    item.agreement,
                    item.backbone_layers,
                )
                for item in named
            )
        used = {info.directions_file for info in (stored, *(item.policy for item in policies))}
        files = {n: info for n, info in manifest.files.items() if n not in old or n in used} | new
        changed = dataclasses.replace(manifest, policy=stored, policies=policies, files=files)
        _write_whole(directory / MANIFEST_FILE, changed.to_json().encode())
    except OSError as error:
        for name in new.keys() - old:
            (directory / name).unlink(missing_ok=True)
        raise RiverError(f"cannot write the policy to {directory}: {error.strerror}") from error
    for name in old - used:
        (directory / name).unlink(missing_ok=True)
    return changed


def _store(
    directory: Path, policy: ExitPolicy, calibration: str, written: dict[str, FileInfo]
) -> PolicyInfo:
    """Write a policy's directions, if it has some, and note the file in `written`."""
    if policy.directions is None:
        return PolicyInfo.from_policy(policy, None, calibration)
    data = policy.directions.astype("<f4").tobytes()
    digest = hashlib.sha256(data).hexdigest()
    name = f"directions.{digest[:12]}.bin"
    written[name] = FileInfo(len(data), digest)  # before it is there: what fails is removed
    _write_whole(directory / name, data)
    return PolicyInfo.from_policy(policy, name, calibration)


def replace_draft(directory: Path, draft: DraftInfo) -> Manifest:
    """Give an engine another draft policy for lossless mode, as `replace_policy` its exit policy.

    Raises RiverError where it cannot be written.
    """
    manifest = dataclasses.replace(read_engine_dir(directory, verify=False), draft=draft)
    try:
        _write_whole(directory / MANIFEST_FILE, manifest.to_json().encode())
    except OSError as error:
        raise RiverError(f"cannot write the policy to {directory}: {error.strerror}") from error
    return manifest


def _write_whole(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_target(out: Path, force: bool) -> None:
    if not out.exists():
        above = next(parent for parent in out.parents if parent.exists())
        if not above.is_dir():
            raise RiverError(f"cannot write {out}: {above} is not a directory")
        return
    if not force:
        raise RiverError(f"{out} exists; give another --out, or --force to replace the engine")
    # --force must not delete anything but an engine.
    if not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST_FILE).is_file()):
        raise RiverError(
            f"{out} is not a river engine (no {MANIFEST_FILE}), so --force will not replace it"
        )


def _replace(temporary: Path, out: Path, force: bool) -> None:
    _check_target(out, force)  # again: a build takes a while
    if not out.exists():
        temporary.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=_prefix(out, "old"), dir=out.parent))
    try:
        out.rename(old)  # over the empty directory
        temporary.rename(out)
    finally:
        if not out.exists():
            old.rename(out)
        shutil.rmtree(old, ignore_errors=True)


def _prefix(out: Path, kind: str) -> str:
    return f".{out.name}.river-trt-{kind}-"


def _remove_leftovers(out: Path) -> None:
    """Remove what killed builds of `out` left: temporaries no process holds, replaced engines."""
    if not out.parent.is_dir():
        return
    for leftover in out.parent.iterdir():
        # While `out` is missing an old engine may be its only copy: killed between two renames.
        is_old = leftover.name.startswith(_prefix(out, "old")) and out.exists()
        if is_old or leftover.name.startswith(_prefix(out, "build")):
            lock = _lock(leftover)
            if lock is not None:
                shutil.rmtree(leftover, ignore_errors=True)
                os.close(lock)


def _lock(directory: Path) -> int | None:
    """Lock a directory until this process ends, however it ends; None if another one holds it.

    A process id in the name would not do: containers use the same few ids again and again.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # another user's, or not made by a build
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or a file system without locks: then nothing is ever a leftover
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that it cleans up as Ctrl-C does."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def handle(signum: int, frame: Any) -> NoReturn:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
