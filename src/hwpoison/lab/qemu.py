"""QEMU from outside, over two sockets: its monitor (QMP), and its debugger's stub (gdb's remote protocol).

Both are spoken in their smallest parts: of QMP only human monitor commands, of the stub what it takes to
stop the guest at an instruction or at a load from an address, and to look at the processor that did it.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwpoison.abi.problems import NotPossible

SECONDS = 30.0  # QEMU answers at once; on a busy machine its threads may have to wait for their turn
REGISTERS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)), "rip")
CODE_SEGMENT_AT = len(REGISTERS) * 8 + 4  # behind rip and the flags
USER = 3  # the privilege level of user mode, in the low bits of the code segment
BREAK, READ = 1, 3  # kinds of breakpoint: at an instruction; after a load


def connect(path: Path) -> socket.socket:
    """QEMU's end of a socket. NotPossible if it does not listen."""
    line = socket.socket(socket.AF_UNIX)
    line.settimeout(SECONDS)
    try:
        line.connect(str(path))
    except OSError as error:
        line.close()
        raise NotPossible(f"QEMU does not answer at {path.name}: {error.strerror}") from None
    return line


class Monitor:
    """QEMU's monitor, after the greeting."""

    def __init__(self, path: Path) -> None:
        self.line = connect(path)
        self.stream = self.line.makefile("rb")
        self._next("QMP")
        self._do("qmp_capabilities")

    def command(self, line: str, cpu: int = 0) -> str:
        """What the human monitor says to a command; NotPossible if QMP itself refuses it."""
        return str(self._do("human-monitor-command", {"command-line": line, "cpu-index": cpu})).strip()

    def _do(self, execute: str, arguments: dict[str, Any] | None = None) -> Any:
        request = {"execute": execute, **({"arguments": arguments} if arguments else {})}
        self.line.sendall(json.dumps(request).encode() + b"\n")
        return self._next("return")

    def _next(self, key: str) -> Any:
        """The next message that has this key: events in between are passed over."""
        for text in self.stream:
            message = json.loads(text)
            if key in message:
                return message[key]
            if "error" in message:
                raise NotPossible(f"QEMU's monitor: {message['error'].get('desc', message)}")
        raise NotPossible("QEMU's monitor was closed")

    def close(self) -> None:
        self.stream.close()
        self.line.close()


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a processor has stopped. ``watched``: the address that it has loaded from, if that is why."""

    cpu: int
    registers: dict[str, int]
    user: bool
    watched: int | None


class Debugger:
    """QEMU's stub. While somebody is connected, the guest runs only between go() and a stop."""

    def __init__(self, path: Path) -> None:
        self.line = connect(path)
        self.buffer = b""
        self.running = False
        self.set: set[tuple[int, int, int]] = set()
        self._send("?")  # connecting has stopped the guest, which is told as well if it was running
        while not self._receive().startswith("T05"):
            pass

    def fileno(self) -> int:
        return self.line.fileno()

    def put(self, kind: int, address: int, size: int = 1) -> None:
        if (kind, address, size) not in self.set:
            self._order(f"Z{kind},{address:x},{size:x}")
            self.set.add((kind, address, size))

    def take(self, kind: int, address: int, size: int = 1) -> None:
        if (kind, address, size) in self.set:
            self._order(f"z{kind},{address:x},{size:x}")
            self.set.remove((kind, address, size))

    def go(self) -> None:
        self._send("c")
        self.running = True

    def step(self) -> Stop:
        """One instruction, without interrupts; a fault that it raises is the step."""
        self._send("s")
        return self.stopped()

    def halt(self) -> None:
        """Stop, wherever the guest is; a stop for another reason that comes first is forgotten."""
        if self.running:
            self.line.sendall(b"\x03")
            self._receive()
            self.running = False

    def heard(self) -> bool:
        """Take what has come: is it a whole packet? It may be the acknowledgement of one of ours only."""
        if not (part := self.line.recv(65536)):
            raise NotPossible("QEMU's debugger stub was closed")
        self.buffer += part
        return self._packet_ends() >= 0

    def _packet_ends(self) -> int:
        """Where the first packet of what has come ends; -1 if it is not whole."""
        end = self.buffer.find(b"#", max(0, self.buffer.find(b"$")))
        return end if end >= 0 and len(self.buffer) >= end + 3 else -1

    def stopped(self) -> Stop:
        """Where it has stopped; waits for that."""
        reply = self._receive()
        self.running = False
        fields = dict(part.split(":", 1) for part in reply[3:].split(";") if ":" in part)
        thread = int(fields.get("thread", "1").rpartition(".")[2], 16)
        watched = next((int(fields[name], 16) for name in ("rwatch", "awatch") if name in fields), None)
        raw = bytes.fromhex(self._ask("g"))
        registers = dict(zip(REGISTERS, struct.unpack_from(f"<{len(REGISTERS)}Q", raw), strict=True))
        user = struct.unpack_from("<I", raw, CODE_SEGMENT_AT)[0] & 3 == USER
        return Stop(thread - 1, registers, user, watched)

    def word(self, address: int) -> int:
        """Eight bytes of memory, as the stopped processor sees it; 0 where there is none."""
        reply = self._ask(f"m{address:x},8")
        return 0 if reply.startswith("E") else int.from_bytes(bytes.fromhex(reply), "little")

    def write(self, stop: Stop, **changed: int) -> None:
        """Go on with these registers otherwise than at the stop. (Writing a single one needs more of gdb.)"""
        words = [(stop.registers | changed)[name] for name in REGISTERS]
        self._order(f"G{struct.pack(f'<{len(words)}Q', *words).hex()}")

    def _order(self, packet: str) -> None:
        if (reply := self._ask(packet)) != "OK":
            raise NotPossible(f"QEMU's debugger stub, of {packet[:40]!r}: {reply!r} instead of OK")

    def _ask(self, packet: str) -> str:
        self._send(packet)
        return self._receive()

    def _send(self, packet: str) -> None:
        self.line.sendall(f"${packet}#{sum(packet.encode()) & 0xFF:02x}".encode())

    def _receive(self, *, last: bool = False) -> str:
        """The next packet, acknowledged unless ``last``: a byte that comes while the guest runs stops it."""
        deadline = time.monotonic() + SECONDS
        while True:
            if (end := self._packet_ends()) >= 0:
                packet = self.buffer[self.buffer.find(b"$") + 1 : end].decode()
                self.buffer = self.buffer[end + 3 :]
                if not last:
                    self.line.sendall(b"+")
                return packet
            part = self.line.recv(65536) if time.monotonic() < deadline else b""
            if not part:
                raise NotPossible("QEMU's debugger stub was closed")
            self.buffer += part

    def close(self) -> None:
        """Let the guest run on, without any breakpoint."""
        try:
            self.halt()
            for one in list(self.set):
                self.take(*one)
            self._send("D")
            self._receive(last=True)
        except (OSError, NotPossible):
            pass  # the guest has ended
        self.line.close()
