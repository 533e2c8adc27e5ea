"""Removes what Linux has and macOS lacks. Python imports this module first if it is on PYTHONPATH."""

import _socket
import mmap
import os
import resource
import socket

DARWIN_OPEN_MAX = 10_240

del socket.TCP_USER_TIMEOUT, _socket.TCP_USER_TIMEOUT
socket.__all__.remove("TCP_USER_TIMEOUT")
del os.sched_getaffinity
del mmap.MADV_HUGEPAGE

_getrlimit, _setrlimit = resource.getrlimit, resource.setrlimit


def getrlimit(number: int) -> tuple[int, int]:
    """As on macOS, reports that the hard limit of descriptors is infinite."""
    soft, hard = _getrlimit(number)
    return (soft, resource.RLIM_INFINITY) if number == resource.RLIMIT_NOFILE else (soft, hard)


def setrlimit(number: int, limits: tuple[int, int]) -> None:
    """As on macOS, refuses an infinite soft limit of descriptors."""
    soft, hard = limits
    if number == resource.RLIMIT_NOFILE:
        if not 0 <= soft <= DARWIN_OPEN_MAX:
            raise ValueError("current limit exceeds maximum limit")
        hard = _getrlimit(number)[1] if hard == resource.RLIM_INFINITY else hard
    _setrlimit(number, (soft, hard))


resource.getrlimit, resource.setrlimit = getrlimit, setrlimit
