"""Moves of tasks, and the settings of the machine."""

from __future__ import annotations

from hwpoison.scenario.verbs import POLICIES, SIGBUS_ACTIONS

from .move import Move
from .world import MOST_TASKS, World

ACTIONS = [("handler", 5.0), *((action, 1.0) for action in SIGBUS_ACTIONS if action != "handler")]
"""A task with a handler lives on and can be looked at."""


def task(world: World) -> list[str] | None:
    if len(world.tasks()) >= MOST_TASKS:
        return None
    action, policy = world.dice.weighted(ACTIONS), world.dice.pick(POLICIES)
    return [f"task {world.new('task')} sigbus={action} policy={policy}"]


def fork(world: World) -> list[str] | None:
    return _another(world, "fork")


def clone(world: World) -> list[str] | None:
    return _another(world, "clone")


def thread(world: World) -> list[str] | None:
    made = _another(world, "thread")
    return made and [f"{made[0]} policy={world.dice.pick(POLICIES)}"]


def _another(world: World, verb: str) -> list[str] | None:
    tasks = world.tasks()
    if not tasks or len(tasks) >= MOST_TASKS:
        return None
    return [f"{verb} {world.dice.pick(tasks)} as={world.new('task')}"]


def exec_(world: World) -> list[str] | None:
    leaders = world.leaders()
    return [f"exec {world.dice.pick(leaders)}"] if leaders else None


def exit_(world: World) -> list[str] | None:
    tasks = world.tasks()
    return [f"exit {world.dice.pick(tasks)}"] if len(tasks) > 1 else None


def prctl(world: World) -> list[str] | None:
    tasks = world.tasks()
    return [f"prctl {world.dice.pick(tasks)} policy={world.dice.pick(POLICIES)}"] if tasks else None


def sigbus(world: World) -> list[str] | None:
    tasks = world.tasks()
    return [f"sigbus {world.dice.pick(tasks)} action={world.dice.weighted(ACTIONS)}"] if tasks else None


def sysctl(world: World) -> list[str]:
    knob = world.dice.pick(world.knobs())
    return [f"sysctl {knob} value={world.dice.number(0, 1)}"]


TASKS = (
    Move("task", 3, 0.5, task),
    Move("fork", 4, 2, fork),
    Move("thread", 1, 0.3, thread),
    Move("clone", 1, 0.5, clone),
    Move("exec", 0.3, 0.5, exec_),
    Move("exit", 0.5, 1, exit_),
    Move("prctl", 1.5, 0.5, prctl),
    Move("sigbus", 1, 1, sigbus),
    Move("sysctl", 0.7, 0.5, sysctl),
)
