"""Signals, their codes, errno and process flags: the numbers of Linux."""

from __future__ import annotations

import errno
import signal

import pytest

from hwpoison.abi import signals
from hwpoison.abi.signals import Errno, McePolicy, SiCode, SigInfo, Signal, errno_name

LINUX_ONLY = ("EHWPOISON", "ENOTRECOVERABLE", "EUCLEAN")


@pytest.mark.parametrize("number", Errno, ids=lambda number: number.name)
def test_error_numbers_are_those_of_linux(number: Errno) -> None:
    """include/uapi/asm-generic/errno.h; Python knows most of them."""
    python = getattr(errno, number.name, None)
    assert python is None or python == number
    assert (Errno.EHWPOISON, Errno.ENOTRECOVERABLE) == (133, 131)


@pytest.mark.parametrize("number", Signal, ids=lambda number: number.name)
def test_signal_numbers_are_those_of_x86(number: Signal) -> None:
    assert getattr(signal, number.name) == number


def test_codes_of_sigbus_are_those_of_siginfo_h() -> None:
    """include/uapi/asm-generic/siginfo.h; 4 and 5 are the ones for memory errors."""
    assert {code.name: int(code) for code in SiCode} == {
        "SI_KERNEL": 0x80,
        "BUS_ADRERR": 2,
        "BUS_MCEERR_AR": 4,
        "BUS_MCEERR_AO": 5,
    }


def test_process_flags_and_prctl_numbers() -> None:
    """include/linux/sched.h, include/uapi/linux/prctl.h."""
    assert (signals.PF_MCE_PROCESS, signals.PF_MCE_EARLY) == (0x80, 0x0800_0000)
    assert (signals.PR_MCE_KILL, signals.PR_MCE_KILL_GET) == (33, 34)
    assert [int(policy) for policy in (McePolicy.LATE, McePolicy.EARLY, McePolicy.DEFAULT)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("code", "text"),
    [(0, "0"), (-16, "-EBUSY"), (-133, "-EHWPOISON"), (-95, "-EOPNOTSUPP"), (-999, "-999"), (5, "5")],
)
def test_a_return_code_reads_as_kernel_people_write_it(code: int, text: str) -> None:
    assert errno_name(code) == text


@pytest.mark.parametrize(
    ("info", "text"),
    [
        (SigInfo(Signal.SIGKILL), "SIGKILL"),
        (SigInfo(Signal.SIGBUS), "SIGBUS"),
        (
            SigInfo(Signal.SIGBUS, SiCode.BUS_MCEERR_AO, 0x7000, 12),
            "SIGBUS/BUS_MCEERR_AO at 0x7000, 4096 bytes",
        ),
        (
            SigInfo(Signal.SIGBUS, SiCode.BUS_MCEERR_AR, 0x20_0000, 21),
            "SIGBUS/BUS_MCEERR_AR at 0x200000, 2097152 bytes",
        ),
    ],
)
def test_a_signal_says_what_a_person_wants_to_know(info: SigInfo, text: str) -> None:
    assert info.text() == text
