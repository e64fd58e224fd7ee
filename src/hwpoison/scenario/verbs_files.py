"""The verbs about files and disks, as the model does them."""

from __future__ import annotations

from hwpoison.abi.problems import WrongUse, unknown_name
from hwpoison.abi.signals import PAGE_SIZE
from hwpoison.mm import access, truncate, writeback
from hwpoison.mm.filemap import Buffers
from hwpoison.mm.inode import FILE_SYSTEMS, File

from .bench import Bench
from .steps import Step


class FileVerbs(Bench):
    def do_file(self, step: Step) -> None:
        fs = step.args["fs"]
        if fs not in FILE_SYSTEMS:
            raise WrongUse(f"{self.where(step)}: {unknown_name('file system', fs, FILE_SYSTEMS)}")
        if FILE_SYSTEMS[fs].character and any(inode.fs.character for inode in self.vm.inodes):
            raise WrongUse(f"{self.where(step)}: there is one such device, and it has a name already")
        regular = step.args["kind"] == "regular"
        name = self.new_name(step, step.subject)
        self.files[name] = self.vm.create(name, fs, step.number("pages"), regular=regular)

    def do_open(self, step: Step) -> None:
        inode = self.look_up(step, "file", self.files, step.args["file"])
        name = self.new_name(step, step.subject)
        self.open_files[name] = File(inode, name, direct=step.get("direct") == "yes")

    def do_close(self, step: Step) -> None:
        truncate.fput(self.open_file(step, step.subject))
        del self.open_files[step.subject]

    def do_read(self, step: Step) -> None:
        file = self.open_file(step, step.subject)
        data = (access.pread_direct if file.direct else self.vm.read)(file, step.page)
        self.see("call", step.subject, data=data)

    def do_write(self, step: Step) -> None:
        file = self.open_file(step, step.subject)
        pages = step.number("pages", 1)
        count = access.pwrite(file, step.page, step.args["data"], pages)
        self.rewritten(file.inode.mapping, step.page, step.page + count)
        self.see("call", step.subject, data="ok" if count == pages else f"{count * PAGE_SIZE} bytes")

    def do_fsync(self, step: Step) -> None:
        writeback.fsync(self.open_file(step, step.subject))
        self.see("call", step.subject, data="ok")

    def do_truncate(self, step: Step) -> None:
        inode = self.inode(step)
        old = inode.size
        truncate.truncate(inode, step.number("pages"))
        self.rewritten(inode.mapping, inode.size, old)
        self.see("call", step.subject, data="ok")

    def do_punch(self, step: Step) -> None:
        inode, end = self.inode(step), step.page + step.number("pages")
        truncate.punch_hole(inode, step.page, end)
        self.rewritten(inode.mapping, step.page, end)
        self.see("call", step.subject, data="ok")

    def do_drop(self, step: Step) -> None:
        truncate.invalidate_mapping_pages(self.inode(step).mapping)

    def do_busy(self, step: Step) -> None:
        page = self.page(step)
        if not isinstance(page.private, Buffers):
            raise WrongUse(
                f"{self.where(step)}: the page has no buffers; write it on a file system with them"
            )
        page.private.busy = True

    def do_disk(self, step: Step) -> None:
        disk = self.vm.disk
        if step.subject == "hold":
            disk.held = True
        elif step.subject == "release":
            disk.release()
        else:
            disk.failing = step.subject == "fail"
