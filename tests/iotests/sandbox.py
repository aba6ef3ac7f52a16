# SPDX-License-Identifier: GPL-2.0-or-later
"""What a systemd unit allows, applied to a process that is not started by
systemd: for preexec_fn of subprocess.Popen."""

import ctypes
import os
import re
import resource
import struct
import subprocess

import iotests

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 22, 24, 38
PR_SET_MDWE = 65
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWNET = 0x20000, 0x8000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, ATTR_RDONLY = 442, -100, 0x8000, 1
# Younger than the headers of Debian 12
NUMBERS = {"cachestat": 451}


class Unit:
    """The settings of a unit file; what is given several times is a list"""

    def __init__(self, filename):
        with open(filename, encoding="utf-8") as file:
            text = re.sub(r"\\\n", " ", file.read())
        self.settings = {}
        for name, value in re.findall(r"^(\w+)=(.*)$", text, re.M):
            old = self.settings.get(name)
            self.settings[name] = f"{old} {value}" if old else value

    def __getitem__(self, name):
        return self.settings[name]

    def calls(self):
        """Names of the system calls that are allowed; some always are"""
        found = calls_of("@default")
        for word in self["SystemCallFilter"].split():
            found |= calls_of(word) if word.startswith("@") else {word}
        return found


def calls_of(group):
    """Those of one of systemd's groups, with the groups in it"""
    found = set()
    for word in iotests.run("systemd-analyze", "syscall-filter", group,
                            ).stdout.splitlines()[1:]:
        word = word.strip()
        if word.startswith("@"):
            found |= calls_of(word)
        elif word and not word.startswith("#"):
            found.add(word)
    return found


def numbers():
    """System calls by name, of this machine"""
    text = subprocess.run(
        ["cc", "-E", "-dM", "-include", "sys/syscall.h", "-"], check=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True).stdout
    return NUMBERS | {name: int(number) for name, number in
                      re.findall(r"#define __NR_(\w+) (\d+)$", text, re.M)}


class Filter:
    """A seccomp filter; for any other system call the process is killed"""

    KILL, ALLOW = 0x80000000, 0x7fff0000

    def __init__(self, calls):
        known = numbers()
        load, equal, ret = 0x20, 0x15, 0x06
        code = struct.pack("HBBI", load, 0, 0, 0)
        for call in sorted(calls & set(known)):
            code += struct.pack("HBBI", equal, 0, 1, known[call])
            code += struct.pack("HBBI", ret, 0, 0, self.ALLOW)
        code += struct.pack("HBBI", ret, 0, 0, self.KILL)
        self._code = ctypes.create_string_buffer(code, len(code))
        self._program = struct.pack("HxxxxxxP", len(code) // 8,
                                    ctypes.addressof(self._code))

    def apply(self):
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
        _prctl(PR_SET_SECCOMP, 2, self._program)


def _prctl(option, value, more=None):
    arguments = [ctypes.c_ulong(value)] + [ctypes.c_ulong(0)] * 3
    if more is not None:
        arguments[1] = ctypes.c_char_p(more)
    if _libc.prctl(option, *arguments):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _check(result, what):
    if result:
        raise OSError(ctypes.get_errno(), what)


def _set_read_only(where, read_only, recursive):
    attributes = struct.pack("QQQQ", ATTR_RDONLY if read_only else 0,
                             0 if read_only else ATTR_RDONLY, 0, 0)
    _check(_libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, where.encode(),
                         AT_RECURSIVE if recursive else 0, attributes,
                         ctypes.c_size_t(len(attributes))), f"mount {where}")


def _private_devices():
    """A /dev with what every program may have"""
    names = ["null", "zero", "full", "random", "urandom"]
    fds = [os.open(f"/dev/{name}", os.O_PATH) for name in names]
    _check(_libc.mount(b"tmpfs", b"/dev", b"tmpfs", 0, b"mode=755"), "/dev")
    for name, fd in zip(names, fds):
        os.close(os.open(f"/dev/{name}", os.O_CREAT | os.O_WRONLY, 0o666))
        _check(_libc.mount(f"/proc/self/fd/{fd}".encode(),
                           f"/dev/{name}".encode(), None, MS_BIND, None), name)
        os.close(fd)


def confine(unit, writable):
    """As root: ProtectSystem=strict but for the folder @writable,
    PrivateDevices, PrivateNetwork, PrivateIPC, ProtectProc, ProcSubset,
    no memory to write and execute, no capabilities, and the limits. The user and the filter come behind."""
    _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET), "unshare")
    _check(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "/")
    _private_devices()
    _check(_libc.mount(b"proc", b"/proc", b"proc", 0,
                       b"hidepid=invisible,subset=pid"), "/proc")
    where = writable.encode()
    _check(_libc.mount(where, where, None, MS_BIND, None), writable)
    _set_read_only("/", True, True)
    _set_read_only(writable, False, False)
    limit = int(unit["LimitNOFILE"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    try:
        _prctl(PR_SET_MDWE, 1)  # MemoryDenyWriteExecute
    except OSError:
        pass  # Linux before 6.3
    for capability in range(64):
        try:
            _prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            break  # there are no more
