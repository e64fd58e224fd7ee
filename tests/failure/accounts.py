"""What is known of a file in a random run: contents that may be found in it, and who is owed an error."""

from __future__ import annotations

from dataclasses import dataclass, field

from hwpoison.mm.inode import File, Inode
from hwpoison.mm.page import ZEROS, Page


@dataclass
class Account:
    """What is known of one file. More than one thing may be found after a loss or a failed write."""

    inode: Inode
    seen: dict[int, set[str]] = field(default_factory=dict)
    disk: dict[int, set[str]] = field(default_factory=dict)
    hit: set[int] = field(default_factory=set)
    owed: dict[File, bool] = field(default_factory=dict)  # who has not been told yet
    unheard: bool = False

    def __post_init__(self) -> None:
        self.disk = {index: {data} for index, data in self.inode.blocks.items()}
        self.file = File(self.inode, "for everything but fsync")

    def may_be(self, index: int) -> set[str]:
        return self.seen.setdefault(index, set(self.disk.setdefault(index, {ZEROS})))

    def wrote(self, index: int, data: str) -> None:
        self.seen[index] = {data}
        if self.inode.vm.disk.under_way:
            self.disk.setdefault(index, {ZEROS}).add(data)  # contents are taken when a write ends

    def found(self, index: int, data: str) -> None:
        assert data in self.may_be(index), f"page {index} of {self.inode} is {data}, not {self.may_be(index)}"
        if {data} == self.disk[index]:
            self.seen[index] = {data}  # it was read from the disk: what was only in memory is gone

    def lost(self) -> None:
        """An error that every open file is told of once."""
        self.owed = dict.fromkeys(self.owed, True)
        self.unheard = True

    def emptied(self, start: int, end: int) -> None:
        for index in range(start, end):
            self.seen[index], self.disk[index] = {ZEROS}, {ZEROS}
            self.hit.discard(index)

    def page(self, index: int) -> Page | None:
        """The page, in the file's cache or on its way to swap."""
        mapping = self.inode.mapping
        slot = mapping.swap_entries.get(index, 0)
        return mapping.pages.get(index) or self.inode.vm.swap.cache.get(slot)
