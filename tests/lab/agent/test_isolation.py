"""What comes out of a process of its own, however it ends."""

from __future__ import annotations

import json
import os
import time

from hwpoison.lab.agent.isolation import isolated


def lines(work: object, limit: float = 30.0) -> list[dict[str, object]]:
    return list(isolated(work, lambda: None, limit))  # type: ignore[arg-type]


def say(writer: int, **line: object) -> None:
    os.write(writer, json.dumps(line).encode() + b"\n")


def test_frames_and_the_answer_arrive_in_order() -> None:
    def work(writer: int) -> None:
        say(writer, frame=7)
        say(writer, observations=[])

    assert lines(work) == [{"frame": 7}, {"observations": []}]


def test_a_process_that_dies_gives_what_it_had_said() -> None:
    def work(writer: int) -> None:
        say(writer, frame=7)
        os.kill(os.getpid(), 9)

    assert lines(work) == [{"frame": 7}]


def test_a_process_that_hangs_is_ended_and_called_failed() -> None:
    assert lines(lambda _writer: time.sleep(60), 0.2) == [{"failed": "not done within 0 s"}]


def test_what_it_started_ends_with_it() -> None:
    reader, held = os.pipe()

    def work(writer: int) -> None:
        if os.fork() == 0:
            time.sleep(60)
        say(writer, observations=[])

    lines(work)
    os.close(held)
    assert os.read(reader, 1) == b""  # the end of the file: nobody has the other end any more
    os.close(reader)


def test_what_holds_the_killed_processes_back_is_released_before_they_are_waited_for() -> None:
    calls: list[str] = []
    list(isolated(lambda _writer: None, lambda: calls.append("released")))
    assert calls == ["released"]
