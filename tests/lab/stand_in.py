"""A QEMU for tests: its monitor and its debugger's stub on two sockets, and nothing behind them.

It keeps what was asked of it, and answers by rule. ``stops`` are sent one after the other, each when the
guest is let go.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from hwpoison.lab.qemu import REGISTERS

USER, KERNEL = 0x33, 0x10


@dataclass
class Moment:
    """Where the guest stops."""

    rip: int
    code_segment: int = USER
    watched: int | None = None
    rsi: int = 0
    rdi: int = 0
    rsp: int = 0
    cpu: int = 0

    def packet(self) -> str:
        watch = "" if self.watched is None else f"rwatch:{self.watched:x};"
        return f"T05thread:{self.cpu + 1:02x};{watch}"

    def registers(self) -> str:
        values = {"rip": self.rip, "rsi": self.rsi, "rdi": self.rdi, "rsp": self.rsp}
        words = [values.get(name, 0) for name in REGISTERS]
        return struct.pack(f"<{len(words)}QII", *words, 0, self.code_segment).hex()


@dataclass
class StandIn:
    """Both sockets, each served by a thread until its client leaves."""

    directory: Path
    frames: dict[int, int] = field(default_factory=dict)  # what gva2gpa finds: page address → frame
    words: dict[int, int] = field(default_factory=dict)  # memory
    stops: deque[Moment] = field(default_factory=deque)
    steps: deque[Moment] = field(default_factory=deque)  # where single steps end
    asked: list[str] = field(default_factory=list)
    refuses: str = ""  # what the monitor says to the mce command

    def __post_init__(self) -> None:
        self.at = Moment(0)
        for name, serve in (("monitor", self._monitor), ("debugger", self._debugger)):
            door = socket.socket(socket.AF_UNIX)
            door.bind(str(self.directory / name))
            door.listen(1)
            threading.Thread(target=self._accept, args=(door, serve), daemon=True).start()

    @property
    def monitor(self) -> Path:
        return self.directory / "monitor"

    @property
    def debugger(self) -> Path:
        return self.directory / "debugger"

    def machine_checks(self) -> list[list[str]]:
        """The arguments of each mce command."""
        return [line.split()[1:] for line in self.asked if line.startswith("mce ")]

    def _accept(self, door: socket.socket, serve: object) -> None:
        while True:
            line, _ = door.accept()
            with line:
                serve(line)  # type: ignore[operator]

    def _monitor(self, line: socket.socket) -> None:
        line.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\n')
        for text in line.makefile("rb"):
            request = json.loads(text)
            line.sendall(b'{"event": "STOP"}\n')
            said = ""
            if request["execute"] == "human-monitor-command":
                said = self._human(request["arguments"]["command-line"])
            line.sendall(json.dumps({"return": said}).encode() + b"\n")

    def _human(self, command: str) -> str:
        self.asked.append(command)
        verb, *arguments = command.split()
        if verb == "gva2gpa":
            frame = self.frames.get(int(arguments[0], 16) >> 12)
            return "Unmapped\r\n" if frame is None else f"gpa: {frame << 12:#x}\r\n"
        return self.refuses if verb == "mce" else ""

    def _debugger(self, line: socket.socket) -> None:
        self._send(line, "T02thread:01;")
        text = b""
        while part := line.recv(4096):
            text += part.replace(b"+", b"")
            while text:
                if text[:1] == b"\x03":
                    text = text[1:]
                    self._send(line, "T02thread:01;")
                elif b"#" in text[:-2]:
                    packet, _, rest = text[1:].partition(b"#")
                    text = rest[2:]
                    self._packet(line, packet.decode())
                else:
                    break

    def _packet(self, line: socket.socket, packet: str) -> None:
        self.asked.append(packet)
        if packet == "c":
            if self.stops:
                self.at = self.stops.popleft()
                self._send(line, self.at.packet())
        elif packet == "s":
            self.at = self.steps.popleft()
            self._send(line, self.at.packet())
        elif packet[0] == "m":
            word = self.words.get(int(packet[1:].partition(",")[0], 16), 0)
            self._send(line, word.to_bytes(8, "little").hex())
        else:
            self._send(line, {"?": "T05thread:01;", "g": self.at.registers()}.get(packet, "OK"))

    def _send(self, line: socket.socket, packet: str) -> None:
        line.sendall(f"+${packet}#{sum(packet.encode()) & 0xFF:02x}".encode())
