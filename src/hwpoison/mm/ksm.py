"""Kernel same-page merging: pages of equal contents become one (mm/ksm.c).

ksmd looks at areas that asked for it (MADV_MERGEABLE). Two equal pages become one *merged* page, which every
entry maps read-only; a store breaks it off again. The stable tree has one node for each merged page, with an
item for each address that was merged into it: that list is the page's reverse map (rmap.py).

Locks: ``ksm_thread_mutex`` for the tree and the whole of a scan; the list of a node under the folio lock
of its page. Left out: chains of nodes with more than 256 items, pages that are skipped after several vain
looks (smart scan), NUMA, merging with the page of zeros, swapping of merged pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwpoison.abi import pageflags as pg

from .fault import Fault
from .filemap import folio_mark_dirty
from .locks import KernelBug, Lock
from .memory import break_cow
from .page import Page, folio_lock, folio_try_get, folio_unlock, get_page, put_page
from .pte import Pte
from .rmap import MergedItem, StableNode, anon_vma_prepare, page_add_rmap, page_remove_rmap

if TYPE_CHECKING:
    from .machine import Machine
    from .mmap import Mm, Vma


@dataclass(frozen=True, slots=True)
class Candidate:
    """A page that ksmd has met, at one address."""

    vma: Vma
    vpn: int
    page: Page


class Ksm:
    """The merger of one machine."""

    def __init__(self, vm: Machine) -> None:
        self.vm = vm
        self.mutex = Lock(vm.paths, "ksm_thread_mutex")
        self.stable: list[StableNode] = []
        self.slots: list[Mm] = []  # the memories to be scanned
        self.looked: dict[tuple[Mm, int], str] = {}  # what each address held when it was last looked at

    def run(self, passes: int = 4) -> None:
        """ksmd for a while: a page is merged at the second look, if it has not changed meanwhile."""
        for _ in range(passes):
            self.scan()

    def scan(self) -> None:
        """ksm_do_scan(): look at every page of every area that may be merged, once."""
        with self.mutex:
            self.vm.lru.add_drain_all()  # a page in a batch would pass for one that somebody holds
            unstable: dict[str, Candidate] = {}
            for mm in [mm for mm in self.slots if mm.users]:
                with mm.mmap_lock.read():
                    for vma in sorted(mm.vmas, key=lambda vma: vma.start):
                        for vpn, _table in mm.populated(vma.start, vma.end) if vma.mergeable else ():
                            self._cmp_and_merge_page(vma, vpn, unstable)
                    self._forget_items(mm, None)
            self.slots = [mm for mm in self.slots if mm.users]
            self.looked = {place: seen for place, seen in self.looked.items() if place[0].users}

    def register(self, mm: Mm) -> None:
        """__ksm_enter(): processes are scanned in the order in which they came."""
        if mm not in self.slots:
            self.slots.append(mm)

    def _forget_items(self, mm: Mm, before: int | None) -> None:
        """get_next_rmap_item() and its neighbour: addresses that a scan has passed and that have no page."""
        for node in self.stable:
            for item in list(node.items):
                passed = item.mm is mm and (before is None or item.vpn < before)
                if passed and not isinstance(mm.entry(item.vpn), Pte):
                    _remove_item(node, item)

    def _cmp_and_merge_page(self, vma: Vma, vpn: int, unstable: dict[str, Candidate]) -> None:
        """One address: merge its page with one of the stable tree, else with one met in this scan."""
        entry = vma.mm.entry(vpn)
        if not isinstance(entry, Pte) or not entry.page.anon or entry.page.head.order:
            return  # left out: a huge page is split for its part
        page = entry.page
        if not folio_try_get(page):
            return
        self._forget_items(vma.mm, vpn)
        for node in self.stable:
            for item in list(node.items):
                if node.page is not page and item.mm is vma.mm and item.vpn == vpn:
                    _remove_item(node, item)
        calm = isinstance(page.mapping, StableNode) or self._unchanged(vma.mm, vpn, page)
        if not calm and self.vm.traits.skips_changed_pages:
            put_page(page)
            return
        merged = self._stable_tree_search(page)
        if merged is not None:
            if merged is page or self._merge_one(vma, vpn, merged):
                _append(merged, vma, vpn)
            put_page(merged)
        elif calm:
            self._unstable_tree_search(Candidate(vma, vpn, page), unstable)
        put_page(page)

    def _unchanged(self, mm: Mm, vpn: int, page: Page) -> bool:
        """calc_checksum(): does the address hold what it held at the last look?"""
        before, self.looked[mm, vpn] = self.looked.get((mm, vpn)), page.content
        return before == page.content

    def _unstable_tree_search(self, met: Candidate, unstable: dict[str, Candidate]) -> None:
        """try_to_merge_two_pages(): with an equal page met before, if it is still there; else it waits."""
        other = unstable.pop(met.page.content, None)
        if other is None or other.page is met.page or not folio_try_get(other.page):
            unstable[met.page.content] = met
            return
        if self._make_merged(met):
            if self._merge_one(other.vma, other.vpn, met.page):
                _append(met.page, other.vma, other.vpn)
            _append(met.page, met.vma, met.vpn)  # alone, if the other changed meanwhile: the kernel copies it
        put_page(other.page)

    def _stable_tree_search(self, page: Page) -> Page | None:
        """The merged page with these contents, with a reference.

        Nobody asks whether it is bad: it is read, and passed over only if its list has become empty.
        """
        if isinstance(page.mapping, StableNode):
            get_page(page)
            return page
        for node in list(self.stable):
            if node.page.mapping is not node or not folio_try_get(node.page):
                self.stable.remove(node)  # the page was freed long ago: a stale node
                continue
            if self.vm.kernel_reads(node.page) == page.content and node.items:
                return node.page
            put_page(node.page)
        return None

    def _make_merged(self, met: Candidate) -> bool:
        """The page turns into a merged one, where it stands."""
        page = met.page
        folio_lock(page)
        alone = _write_protect(met.vma, met.vpn, page)
        if alone:
            node = StableNode(page)
            page.mapping = node
            folio_mark_dirty(page)
            self.stable.append(node)
        folio_unlock(page)
        return alone

    def _merge_one(self, vma: Vma, vpn: int, merged: Page) -> bool:
        """try_to_merge_one_page(), replace_page(): this address maps the merged page instead.

        The caller holds the page that is there now.
        """
        entry = vma.mm.entry(vpn)
        if not isinstance(entry, Pte):
            return False
        page = entry.page
        folio_lock(page)
        table = vma.mm.pte_alloc(vpn)
        done = _write_protect(vma, vpn, page) and page.content == self.vm.kernel_reads(merged)
        if done:
            with table.lock:
                done = table.entries.get(vpn) is entry and not entry.writable  # no store came in between
                if done:
                    get_page(merged)
                    page_add_rmap(merged, vma)
                    table.entries[vpn] = Pte(merged, writable=False)
                    page_remove_rmap(page, vma)
        folio_unlock(page)
        if done:
            put_page(page)
        return done


def _write_protect(vma: Vma, vpn: int, page: Page) -> bool:
    """write_protect_page(): no store can reach it any more. Not if others than the scan hold it."""
    table = vma.mm.pte_alloc(vpn)
    with table.lock:
        entry = table.entries.get(vpn)
        if not isinstance(entry, Pte) or entry.page is not page:
            return False
        if page.refcount != page.mapcount + 1 + bool(page.flags & pg.SWAPCACHE):
            return False
        if entry.dirty:
            folio_mark_dirty(page)
        entry.writable = entry.dirty = False
        page.exclusive = False
    return True


def _remove_item(node: StableNode, item: MergedItem) -> None:
    """remove_rmap_item_from_tree(): under the folio lock, so that a page on its way gets there first."""
    while True:
        page = node.page
        alive = folio_try_get(page)
        if alive:
            folio_lock(page)
        current = node.page is page
        if current and item in node.items:
            node.items.remove(item)
        if alive:
            folio_unlock(page)
            put_page(page)
        if current:
            return


def _append(merged: Page, vma: Vma, vpn: int) -> None:
    """stable_tree_append(): one more address, at the head of the list of its node."""
    node = merged.mapping
    if not isinstance(node, StableNode):
        raise KernelBug(f"{merged} is no merged page")
    folio_lock(merged)
    if not any(item.mm is vma.mm and item.vpn == vpn for item in node.items):
        node.items.insert(0, MergedItem(vma.mm, vpn, anon_vma_prepare(vma)))
    folio_unlock(merged)


def madvise_mergeable(vma: Vma, *, on: bool) -> None:
    """MADV_MERGEABLE, or MADV_UNMERGEABLE, which gives every page of the area back (unmerge_ksm_pages())."""
    vma.mergeable = on
    if on:
        vma.mm.vm.ksm.register(vma.mm)
        return
    for vpn, _table in vma.mm.populated(vma.start, vma.end):
        while isinstance(entry := vma.mm.entry(vpn), Pte) and isinstance(entry.page.mapping, StableNode):
            if break_cow(vma.mm.users[0], vpn) not in (Fault.DONE, Fault.RETRY):
                return
