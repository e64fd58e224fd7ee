"""What a file has lost: pages whose only good copy was in bad memory. In no kernel (docs/proposed.md).

With the trait ``remembers_lost_data`` the handler leaves an entry in the page cache where a dirty page was.
Until the page is written anew, truncated or punched, every way to its contents ends in EHWPOISON, for all who
have not acknowledged the loss through their own open file. Those read what the disk has.

``AddressSpace.lost`` is under ``i_pages_lock``, as the rest of the page cache; what an open file has
acknowledged is its own. tmpfs needs no entries: the bad page itself stays in the file.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno

from .inode import AddressSpace, File, SysError
from .page import ZEROS


def lost_error(mapping: AddressSpace) -> Errno:
    """The code for contents that are gone: a kind of its own (R14), where the kernel knows it."""
    return Errno.EHWPOISON if mapping.vm.traits.remembers_lost_data else Errno.EIO


def mark_lost(mapping: AddressSpace, index: int) -> None:
    """The handler gives up a dirty page: before it is removed, so that nobody reads old data in between."""
    if not mapping.vm.traits.remembers_lost_data or not mapping.can_writeback:
        return
    with mapping.i_pages_lock:
        mapping.losses += 1
        mapping.lost[index] = mapping.losses


def forget_lost(mapping: AddressSpace, start: int, end: int) -> None:
    """These pages have new contents, or none: nothing of the loss is left to be told."""
    if not mapping.lost:
        return
    with mapping.i_pages_lock:
        for index in [index for index in mapping.lost if start <= index < end]:
            del mapping.lost[index]


def refuse_lost(mapping: AddressSpace, index: int) -> None:
    """For ways in that belong to no open file: SysError EHWPOISON for a page that was lost."""
    if index in mapping.lost:
        raise SysError(Errno.EHWPOISON, f"page {index} of {mapping.host.name} was lost")


def read_lost(file: File, index: int) -> str | None:
    """None: not lost. Else what the disk has, for an open file that knows; SysError EHWPOISON for others."""
    mapping = file.inode.mapping
    number = mapping.lost.get(index)
    if number is None:
        return None
    if file.acknowledged.get(index) != number:
        refuse_lost(mapping, index)
    return file.inode.blocks.get(index, ZEROS)


def lost_pages(file: File) -> list[int]:
    """The pages that this open file would have to acknowledge; EINVAL where there is no such call."""
    mapping = _known(file)
    if not mapping.can_writeback:
        return sorted(index for index, page in mapping.pages.items() if page.flags & pg.HWPOISON)
    return sorted(i for i, number in mapping.lost.items() if file.acknowledged.get(i) != number)


def acknowledge(file: File, start: int, end: int) -> None:
    """This open file takes what the disk has. EINVAL if none of these pages was lost."""
    mapping = _known(file)
    pages = [index for index in mapping.lost if start <= index < end]
    if not pages:
        raise SysError(Errno.EINVAL, f"no page from {start} to {end - 1} of {mapping.host.name} was lost")
    for index in pages:
        file.acknowledged[index] = mapping.lost[index]


def _known(file: File) -> AddressSpace:
    mapping = file.inode.mapping
    if not mapping.vm.traits.remembers_lost_data:
        raise SysError(Errno.EINVAL, "this kernel has no such call")
    return mapping


def ranges(pages: list[int]) -> str:
    """``0 2-3``: page numbers in order, for people."""
    parts: list[list[int]] = []
    for page in pages:
        if parts and parts[-1][-1] == page - 1:
            parts[-1].append(page)
        else:
            parts.append([page])
    return " ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts) or "nothing"
