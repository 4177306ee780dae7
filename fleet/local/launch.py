"""Starts a program so that it cannot outlive the supervisor:
`python -I -S launch.py PARENT SIGNAL USER LISTENER -- PROGRAM …`.

SIGNAL is what the kernel sends the program when the process PARENT dies (Linux; elsewhere nothing does). USER is whom
to become first (empty: nobody else): a server that refuses to run as root gets another user's identity and keeps one
capability, CAP_DAC_OVERRIDE, so that it can reach its files below folders that are root's alone. LISTENER is the
descriptor of an open socket for the program to accept connections from (empty: none), handed over as systemd does it,
see sd_listen_fds(3).

Imports the standard library only: it runs without site-packages, in about 20 ms.
"""

import ctypes
import os
import pwd
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_SECBIT_NO_SETUID_FIXUP = 1 << 2
CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522
_LISTENER_DESCRIPTOR = 3
_LIBC = ctypes.CDLL(None, use_errno=True)


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def main(arguments: list[str]) -> None:
    """Becomes the program; returns only when it cannot, by ending the process with the reason."""
    parent, signal_number, user, listener, separator, *program = arguments
    if separator != "--" or not program:
        sys.exit("usage: launch.py PARENT SIGNAL USER LISTENER -- PROGRAM …")
    if listener:
        hand_over(int(listener))
    if user:
        become(user, keeping=CAP_DAC_OVERRIDE)
    if sys.platform == "linux":
        # The kernel forgets the death signal when credentials change, so it is asked for after `become`; it keeps it
        # over the exec of a program without set-user-id bits or file capabilities (prctl(2)).
        _prctl(_PR_SET_PDEATHSIG, int(signal_number))
        # When the parent died before the line above, no signal comes any more, and another process is our parent now.
        if os.getppid() != int(parent):
            sys.exit("the supervisor died first")
    try:
        os.execv(program[0], program)  # noqa: S606 - no shell is the point
    except OSError as exc:
        sys.exit(f"cannot start {program[0]}: {exc.strerror}")


def hand_over(listener: int) -> None:
    """Makes the open socket descriptor 3, and says so in the environment, for the program to be.

    LISTEN_PID names it: the process id stays the same over the exec, and a child that inherits the environment does not
    take the socket for its own.
    """
    if listener != _LISTENER_DESCRIPTOR:
        os.dup2(listener, _LISTENER_DESCRIPTOR)
        os.close(listener)
    os.environ["LISTEN_FDS"] = "1"
    os.environ["LISTEN_PID"] = str(os.getpid())


def become(user: str, *, keeping: int) -> None:
    """Changes from root to `user`, with the one capability `keeping`, which lasts across an exec.

    NO_SETUID_FIXUP, besides keeping capabilities across setuid, makes access(2) honour them: PostgreSQL asks it
    whether its own binaries can be read.
    """
    who = pwd.getpwnam(user)
    # Before setuid, which would take all capabilities away; then all but one are given up, and that one is made
    # ambient, because only ambient capabilities survive the exec of a program that has none of its own
    # (capabilities(7)).
    _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setgid(who.pw_gid)
    os.setuid(who.pw_uid)
    only = 1 << keeping
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    data = (_CapData * 2)(_CapData(only, only, only), _CapData(0, 0, 0))
    _check("capset", _LIBC.capset(ctypes.byref(header), ctypes.byref(data)))
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, keeping, 0, 0)


def _prctl(*arguments: int) -> None:
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:5]]
    _check(f"prctl {arguments[0]}", _LIBC.prctl(*padded))


def _check(what: str, result: int) -> None:
    if result != 0:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main(sys.argv[1:])
