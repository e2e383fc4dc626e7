"""Locks its own process up, for good. Runs as the first process of new namespaces, from its text.

root      a read-only tmpfs with the standard library and the system's shared libraries, nothing
          else: no /etc, /home, /proc, no programs
/tmp      a small tmpfs, the only place to write
rights    nobody's: no capabilities, none to be gained
calls     no processes, threads, programs, sockets, namespaces, shared memory (seccomp)
rlimits   time, memory, files
"""

import ctypes
import os
import platform
import resource
import struct
import sys
import sysconfig
from typing import Any

NOBODY = 65534
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC, MS_PRIVATE = 1024, 2048, 4096, 16384, 1 << 18
MS_RELATIME, MNT_DETACH = 1 << 21, 2
ST_RELATIME = 4096
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_SET_DUMPABLE = 24, 38, 22, 4
SECCOMP_FILTER, SECCOMP_ALLOW, SECCOMP_EPERM = 2, 0x7FFF0000, 0x00050001
LIMITS = (
    ("RLIMIT_CPU", 8),  # seconds
    ("RLIMIT_AS", 1 << 30),
    ("RLIMIT_FSIZE", 1 << 20),  # of a file
    ("RLIMIT_NOFILE", 32),
    ("RLIMIT_NPROC", 1),
    ("RLIMIT_MSGQUEUE", 0),
    ("RLIMIT_CORE", 0),
)
# name: number on x86_64, on aarch64 (None: it has none). The rest is what Python needs, and memory
# and files are bounded by LIMITS and the tmpfs.
DENIED: dict[str, tuple[int, int | None]] = {
    "clone": (56, 220),
    "fork": (57, None),
    "vfork": (58, None),
    "clone3": (435, 435),
    "execve": (59, 221),
    "execveat": (322, 281),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "prctl": (157, 167),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
}
ARCHITECTURES = {"x86_64": (0xC000003E, 0, 155), "aarch64": (0xC00000B7, 1, 41)}
libc = ctypes.CDLL(None, use_errno=True)


def lock_up(root: str) -> None:
    """root: an empty directory, which becomes `/`. OSError where the system does not allow it."""
    if platform.machine() not in ARCHITECTURES:
        raise OSError(f"no list of system calls for {platform.machine()}")
    was_root = os.getuid() == 0 and _is_mapped(NOBODY)
    _build_root(root, was_root)
    os.chdir(root)
    _check(libc.syscall(ARCHITECTURES[platform.machine()][2], b".", b"."), "pivot_root")
    _check(libc.umount2(b".", MNT_DETACH), "umount2")
    _mount("/", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir("/tmp")  # noqa: S108
    set_limits()
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails beyond the last one there is
    if was_root:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header, none = struct.pack("Ii", 0x20080522, 0), bytes(24)
    _check(libc.capset(header, none), "capset")
    _check(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    _filter_calls()


def set_limits() -> None:
    for name, value in LIMITS:
        limit = getattr(resource, name, None)
        if limit is not None:
            resource.setrlimit(limit, (value, value))


def _is_mapped(user: int) -> bool:
    """Whether this user namespace knows the user, so that the superuser can become it."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        rows = [[int(number) for number in line.split()] for line in file]
    return any(first <= user < first + count for first, _, count in rows)


def _build_root(root: str, was_root: bool) -> None:
    _mount("/", MS_REC | MS_PRIVATE)
    _mount(root, MS_NOSUID | MS_NODEV, b"tmpfs", b"size=1m,nr_inodes=512,mode=0755")
    for source in _libraries():
        target = root + source
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(source):  # /lib, where all is in /usr
            os.symlink(os.readlink(source), target)
            continue
        os.makedirs(target, exist_ok=True)
        _mount(target, MS_BIND | MS_REC, source.encode())
        found = os.statvfs(source).f_flag
        kept = found & (MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME)
        kept |= MS_RELATIME if found & ST_RELATIME else 0  # a user may not take such flags away
        _mount(target, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | kept)
    place = root + "/tmp"  # noqa: S108
    os.makedirs(place, exist_ok=True)
    owner = f",uid={NOBODY},gid={NOBODY}" if was_root else ""
    options = f"size=4m,nr_inodes=128,mode=0700{owner}".encode()
    _mount(place, MS_NOSUID | MS_NODEV | MS_NOEXEC, b"tmpfs", options)


def _libraries() -> list[str]:
    """Directories that Python's own modules are loaded from, parents before what they hold."""
    named = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"]
    chosen: list[str] = []
    for path in sorted({p for p in (*named, *system) if p and os.path.isdir(p)}):
        if not any(path.startswith(f"{parent}/") for parent in chosen):
            chosen.append(path)
    return chosen


def _mount(target: str, flags: int, source: bytes = b"none", options: bytes | None = None) -> None:
    kind = b"tmpfs" if source == b"tmpfs" else None
    result = libc.mount(source, target.encode(), kind, ctypes.c_ulong(flags), options)
    _check(result, f"mount {target}")


def _filter_calls() -> None:
    """Seccomp: EPERM for DENIED, and for every call of another architecture's numbering."""
    audit, column, _ = ARCHITECTURES[platform.machine()]
    numbers = [row[column] for row in DENIED.values() if row[column] is not None]
    program: list[tuple[int, int, int, Any]] = [
        (0x20, 0, 0, 4),  # load the architecture
        (0x15, 0, len(numbers) + 3, audit),  # another one: to the last line
        (0x20, 0, 0, 0),  # load the call's number
        (0x35, len(numbers) + 1, 0, 0x40000000),  # x32
        *((0x15, len(numbers) - i, 0, number) for i, number in enumerate(numbers)),
        (0x06, 0, 0, SECCOMP_ALLOW),
        (0x06, 0, 0, SECCOMP_EPERM),
    ]
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    lines = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(lines))
    _check(libc.prctl(PR_SET_SECCOMP, SECCOMP_FILTER, header, 0, 0), "seccomp")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


assert sys.platform == "linux"
