"""The verbs about files, disks and the settings of the machine."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from hwpoison.scenario.steps import Step

from . import syscalls as nr
from .bench import Bench, named
from .files import label
from .problems import CannotSetUp
from .quiet import write_once
from .remote import DATA
from .syscalls import PAGE

SYSCTL = Path("/proc/sys/vm")
KEEP_SIZE_AND_PUNCH = 3  # flags of fallocate(2)
DISK_STATES = {"hold": "delay", "release": "linear", "fail": "flakey", "mend": "linear"}


class FileVerbs(Bench):
    def do_sysctl(self, step: Step) -> None:
        knob = SYSCTL / step.subject
        if knob.exists():  # a kernel without the knob does as always
            write_once(str(knob), step.args["value"])

    def do_file(self, step: Step) -> None:
        name = step.subject
        self.files[name] = self.file_systems.create(
            name, step.args["fs"], step.number("pages"), busy=name in self.busy
        )

    def do_open(self, step: Step) -> None:
        file = named(self.files, step.args["file"])
        hand = self.hand
        if file.made is not None and file.made.descriptor is not None:
            self.open_files[step.subject] = hand.take(file.made.descriptor), file
            return
        path = hand.shared.scratch(bytes(file.path) + b"\0")
        flags = os.O_RDWR | (os.O_DIRECT if step.get("direct") == "yes" else 0)
        self.open_files[step.subject] = hand.call(nr.OPEN, path, flags), file

    def do_close(self, step: Step) -> None:
        self.hand.call(nr.CLOSE, self.descriptor(step.subject))
        del self.open_files[step.subject]

    def do_read(self, step: Step) -> None:
        count = self.hand.call(nr.PREAD64, self.descriptor(step.subject), DATA, PAGE, step.page * PAGE)
        self.see("call", step.subject, data=label(self.tasks.shared.data[:count]))

    def do_write(self, step: Step) -> None:
        word = step.args["data"].encode() + b"\0"
        self.tasks.shared.data = word
        pages = step.number("pages", 1)
        there, file = named(self.open_files, step.subject)
        size = len(word) if file.mounted else pages * PAGE  # the rest is the file system's
        if pages == 1:
            count = self.hand.call(nr.PWRITE64, there, DATA, size, step.page * PAGE)
        else:  # the same page so many times
            vector = self.hand.shared.scratch(struct.pack("<QQ", DATA, PAGE) * pages)
            count = self.hand.call(nr.PWRITEV, there, vector, pages, step.page * PAGE)
        self.see("call", step.subject, data="ok" if count == size else f"{count} bytes")

    def do_fsync(self, step: Step) -> None:
        self.hand.call(nr.FSYNC, self.descriptor(step.subject))
        self.see("call", step.subject, data="ok")

    def _with_file(self, name: str, number: int, *arguments: int) -> None:
        """A call on a descriptor of its own."""
        hand = self.hand
        path = hand.shared.scratch(bytes(named(self.files, name).path) + b"\0")
        descriptor = hand.call(nr.OPEN, path, os.O_RDWR)
        returned = hand.raw(number, descriptor, *arguments)
        hand.call(nr.CLOSE, descriptor)
        if returned < 0:
            raise nr.CallFailed(-returned, nr.name_of(-returned))
        self.see("call", name, data="ok")

    def do_truncate(self, step: Step) -> None:
        self._with_file(step.subject, nr.FTRUNCATE, step.number("pages") * PAGE)

    def do_punch(self, step: Step) -> None:
        keep_size_and_punch = 3
        self._with_file(
            step.subject, nr.FALLOCATE, keep_size_and_punch, step.page * PAGE, step.number("pages") * PAGE
        )

    def do_drop(self, _step: Step) -> None:
        # posix_fadvise(2) would be for this one file, but writes dirty pages first
        write_once("/proc/sys/vm/drop_caches", "1")

    def do_busy(self, step: Step) -> None:
        named(self.files, step.subject)  # it was made busy from the start: Files.create()

    def do_disk(self, step: Step) -> None:
        """A disk either holds writes back or lets them fail; what it does not do need not end."""
        begins = {"hold": "delay", "fail": "flakey"}.get(step.subject)
        ends = {"release": "delay", "mend": "flakey"}.get(step.subject)
        if begins is not None and self.disks.state not in (begins, "linear"):
            raise CannotSetUp("a disk cannot hold writes back and let them fail at once")
        if begins is not None or ends == self.disks.state:
            self.disks.switch(begins or "linear")
