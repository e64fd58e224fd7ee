"""Explores a race and puts what came of it into records."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from hwpoison.abi.exploration import Exploration, Telling
from hwpoison.abi.problems import WrongUse
from hwpoison.failure.profiles import Profile
from hwpoison.scenario.load import Scenario

from .explain import Explainer
from .explorer import Explorer
from .minimise import Minimiser, Shortest
from .race import Race
from .schedule import Part, follow, stretches, write
from .search import DEFAULT_BUDGET, Found, Result, Search

Tell = Callable[[Result], None]


class Investigation:
    """One scenario on one kernel. ``source``: how it was named on the command line."""

    def __init__(self, scenario: Scenario, profile: Profile, source: str) -> None:
        if not scenario.labels:
            raise WrongUse(
                f"scenario {scenario.name!r} has no paths that run at the same time: "
                "write the steps between a line 'together' and a line 'end', each as LABEL: STEP"
            )
        self.scenario = scenario
        self.profile = profile
        self.source = source
        self.race = Race(scenario, profile)
        self.explorer = Explorer(self.race)

    def explore(
        self,
        strategy: str = "auto",
        budget: int = DEFAULT_BUDGET,
        seed: int = 0,
        *,
        keep_going: bool = False,
        tell: Tell | None = None,
    ) -> Exploration:
        with self.explorer.open():
            result = Search(self.explorer, budget, keep_going, tell).run(strategy, seed)
            failures = tuple(self.telling(found) for found in result.failures)
            known = tuple(self.telling(found) for found in result.known)
        shown = {found.failure.known for found in result.known}
        return Exploration(
            scenario=self.scenario.name,
            title=self.scenario.title,
            kernel=self.profile.name,
            paths=tuple(self.scenario.labels),
            status=result.status.value,
            bound=result.bound,
            executions=result.executions,
            orders=result.orders,
            repeated=result.cut,
            events=round(result.events / max(result.executions, 1), 1),
            estimate=result.estimate,
            failures=failures,
            known=known,
            unseen=tuple(sorted(self.race.expected - shown)),
        )

    def replay(self, parts: list[Part]) -> tuple[Exploration, str | None]:
        """One schedule: what it came to, and where it did not fit."""
        self.explorer.judge_each = True
        with self.explorer.open():
            follower = follow(self.explorer, parts)
            schedule = stretches(self.explorer.engine)
            failures = list(self.explorer.failures)
            told = [
                self._put(
                    Found(failure, schedule, "schedule", 1),
                    Shortest(schedule, tuple(parts), failure, follower.preemptions, follower.switches, 0, 0),
                )
                for failure in failures
            ]
        exploration = Exploration(
            scenario=self.scenario.name,
            title=self.scenario.title,
            kernel=self.profile.name,
            paths=tuple(self.scenario.labels),
            status="failed" if any(t.known is None for t in told) else "one schedule",
            bound=None,
            executions=1,
            orders=1,
            repeated=0,
            events=len(self.explorer.engine.events),
            estimate=None,
            failures=tuple(t for t in told if t.known is None),
            known=tuple(t for t in told if t.known is not None),
        )
        return exploration, follower.misfit

    def telling(self, found: Found) -> Telling:
        """A failure by its shortest run; while the explorer is open."""
        shortest = Minimiser(self.explorer, found.failure.sort).shortest(found.schedule)
        if shortest is None:  # it does not come again: told as it was found
            shortest = Shortest(found.schedule, (), found.failure, 0, len(found.schedule) - 1, 0, 0)
        return self._put(found, shortest)

    def _put(self, found: Found, shortest: Shortest) -> Telling:
        explainer = Explainer(self.explorer, shortest)
        state = tuple(self.race.state())
        racing = explainer.racing()
        certain = explainer.certain_from()
        schedule = write(shortest.parts)
        command = f"hwpoison explore {shlex.quote(self.source)} --kernel {self.profile.name}"
        return Telling(
            kind=shortest.failure.kind,
            text=shortest.failure.text,
            known=shortest.failure.known,
            schedule=schedule,
            preemptions=shortest.preemptions,
            switches=shortest.switches,
            found_with=shortest.before,
            strategy=found.strategy,
            executions=found.executions,
            racing=None if racing is None else self._pair(explainer, racing),
            certain=None if certain is None else f"{explainer.names[certain]}: {explainer.labels[certain]}",
            moments=explainer.moments(racing, certain),
            state=state,
            command=f"{command} --schedule {shlex.quote(schedule)}",
        )

    @staticmethod
    def _pair(explainer: Explainer, racing: tuple[int, int]) -> tuple[str, str, str]:
        first, second = (f"{explainer.names[n]}: {explainer.labels[n]}" for n in racing)
        return first, second, explainer.met_at(*racing)
