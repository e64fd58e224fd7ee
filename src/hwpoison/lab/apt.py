"""The machine's package archives, asked through apt with directories and a configuration of our own."""

from __future__ import annotations

import os
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hwpoison.abi.problems import NotPossible

from . import tools
from .kernels import Known

SECONDS = 900.0  # for one command; a slow mirror needs a minute or two for a kernel
ELSEWHERE = "name an image that you have with --kernel PATH"

Told = Callable[[str, str, float], None]
"""Called with the kernel's name, what is being done, and how much of it, in percent (0: not known)."""

CONFIGURATION = """\
Dir::State "{work}/state";
Dir::State::status "{work}/status";
Dir::Cache "{work}/cache";
APT::Sandbox::User "root"; // the user that apt downloads as cannot write here
APT::Get::List-Cleanup "false"; // one suite does not throw away what another has listed
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Acquire::Languages "none";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""
ANOTHER_SUITE = """\
Dir::Etc::sourcelist "-";
Dir::Etc::sourceparts "{work}/{suite}.d";
"""
SOURCE = """\
Types: deb
URIs: {mirror}
Suites: {suite}
Components: main
"""
TARGET = "$(ORIGIN)|$(LABEL)|$(REPO_URI)|$(SOURCESENTRY)"


class Archive:
    """The archives that the machine is configured for, and other suites on the same mirror."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._updated: dict[str, str] = {}  # suite → what apt complained about
        for directory in ("state/lists/partial", "cache/archives/partial"):
            (work / directory).mkdir(parents=True)
        (work / "status").touch()

    def download(self, known: Known, directory: Path, told: Told) -> None:
        """Put the newest packages of a series into ``directory``; apt checks the archive's signature."""
        if known.suite:
            self._ask("")  # only the lists of the machine's own suites say which mirror is Debian's
        configuration = self._ask(known.suite)
        names = self._choose(known, configuration)
        command = ["apt-get", *configuration, "download", *names]
        _watched(command, directory, lambda percent: told(known.name, "downloading", percent))

    def _choose(self, known: Known, configuration: Sequence[str]) -> list[str]:
        """The names of the newest packages."""
        first = known.packages[0]
        start = first.partition("(")[0]
        found = tools.run(["apt-cache", *configuration, "pkgnames", start], seconds=SECONDS).split()
        releases = [match[1] for name in found if (match := re.fullmatch(first, name))]
        if not releases:
            where = f"Debian's {known.suite}" if known.suite else "the package suites of this machine"
            complaint = self._updated[known.suite]
            why = (
                f"apt says: {complaint}"
                if complaint
                else f"kernels are fetched from Debian; elsewhere, {ELSEWHERE}"
            )
            raise NotPossible(f"no package of kernel {known.name} in {where} ({why})")
        newest = max(releases, key=version_key)
        return [pattern.partition("(")[0] + newest for pattern in known.packages]

    def _ask(self, suite: str) -> list[str]:
        """The options with which apt sees a suite (empty: the machine's own ones), its lists up to date."""
        file = self._work / f"{suite or 'own'}.conf"
        options = ["-c", str(file)]
        if suite not in self._updated:
            text = CONFIGURATION.format(work=self._work)
            if suite:
                text += ANOTHER_SUITE.format(work=self._work, suite=suite)
                self._describe(suite)
            file.write_text(text)
            self._updated[suite] = _complaints(["apt-get", *options, "update"])
        return options

    def _describe(self, suite: str) -> None:
        """Write the source of another suite: same mirror, same keys."""
        targets = tools.run(["apt-get", *self._ask(""), "indextargets", "--format", TARGET], seconds=SECONDS)
        for line in targets.splitlines():
            origin, label, mirror, entry = line.split("|")
            if (origin, label) == ("Debian", "Debian"):
                source = SOURCE.format(mirror=mirror, suite=suite) + signed_by(
                    Path(entry.rpartition(":")[0]), mirror
                )
                (self._work / f"{suite}.d").mkdir()
                (self._work / f"{suite}.d" / "suite.sources").write_text(source)
                return
        complaint = self._updated[""]
        why = f"apt says: {complaint}" if complaint else "it is configured for no archive of Debian"
        raise NotPossible(f"apt knows no mirror to fetch kernels from ({why}): {ELSEWHERE}")


def signed_by(file: Path, mirror: str) -> str:
    """The Signed-By field (a line) of a mirror's entry in a file of apt's sources; '' if it has none."""
    try:
        text = file.read_text(errors="replace")
    except OSError:
        return ""
    if file.suffix == ".sources":
        for stanza in re.split(r"\n\s*\n", text):
            if mirror.rstrip("/") in [uri.rstrip("/") for uri in stanza.split()]:
                field = re.search(r"^Signed-By:.*(?:\n[ \t].*)*", stanza, re.MULTILINE | re.IGNORECASE)
                return field[0] + "\n" if field else ""
        return ""
    for line in text.splitlines():
        keyring = re.search(r"signed-by=([^\]\s]+)", line)
        if keyring and mirror.rstrip("/") in line:
            return f"Signed-By: {keyring[1]}\n"
    return ""


def version_key(text: str) -> list[tuple[int, int | str]]:
    """A key that sorts numbers as numbers: 6.1.0-9 comes before 6.1.0-10."""
    return [(1, int(part)) if part.isdigit() else (0, part) for part in re.findall(r"\d+|\D+", text)]


def _complaints(command: Sequence[str]) -> str:
    """What apt-get update warns of; it counts archives that cannot be reached as a warning only."""
    said = _watched(command, None, lambda _percent: None)
    warnings = [line[3:] for line in said.splitlines() if line.startswith(("W: ", "E: "))]
    return warnings[0] if warnings else ""


def _watched(command: Sequence[str], directory: Path | None, told: Callable[[float], None]) -> str:
    """Run apt-get, passing on the percentages it reports; what it said. NotPossible if it fails."""
    reader, writer = os.pipe()
    with (
        tempfile.TemporaryFile("w+", errors="replace") as said,
        os.fdopen(reader, "rb", buffering=0) as status,
    ):
        try:
            process = subprocess.Popen(
                [*command, "-q", "-o", f"APT::Status-Fd={writer}"],
                cwd=directory,
                env=tools.environment(),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=(writer,),
            )
        finally:
            os.close(writer)
        with process:
            try:
                _follow(status.fileno(), told, time.monotonic() + SECONDS)
                code = process.wait(timeout=SECONDS)
            except BaseException:
                process.kill()
                raise
        said.seek(0)
        text = said.read()
    if code:
        raise tools.failure(command[0], code, text)
    return text


def _follow(status: int, told: Callable[[float], None], deadline: float) -> None:
    """Read "dlstatus:NUMBER:PERCENT:WHAT" lines until apt closes its end. NotPossible when time is up."""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([status], [], [], left)[0]:
            raise NotPossible(f"apt-get was not done after {SECONDS:.0f} s; is the network slow?")
        text = os.read(status, 65536).decode(errors="replace")
        if not text:
            return
        for line in text.splitlines():
            if match := re.match(r"dlstatus:\d+:([\d.]+):", line):
                told(float(match[1]))
