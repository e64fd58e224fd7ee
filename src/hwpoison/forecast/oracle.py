"""The answer for a kind of page, and for a real page with its own users: plant, judge, vary, compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hwpoison.abi.forecast import Answer, Consequence
from hwpoison.abi.records import Note, Verdict
from hwpoison.failure.profiles import Profile
from hwpoison.mm.locks import KernelBug

from .conditions import VARIANTS, difference
from .consequence import consequence
from .judge import Seen, judge, story
from .kinds import SEVERAL, Kind
from .plant import NotReproduced, Planted, Recipe, Situation, User, Wanted, plant, some_users
from .recipes import recipes_for, why_not

USUAL = Situation()
MODEL_BROKE = "the model itself breaks on such a page"
ENDS_DIFFERENTLY = "pages that look like this end differently"


@dataclass(frozen=True, slots=True)
class Policy:
    """The sysctls of the host: vm.memory_failure_early_kill and vm.memory_failure_recovery."""

    early_kill: bool = False
    recovery: bool = True


class Oracle:
    """One kernel's handler, asked about kinds of pages. Each kind is judged once."""

    def __init__(self, profile: Profile, policy: Policy = Policy()) -> None:
        self.profile = profile
        self.policy = policy
        self._answers: dict[Kind, Answer] = {}

    def of_kind(self, kind: Kind) -> Answer:
        """What an error on a page of this kind would do."""
        answer = self._answers.get(kind)
        if answer is None:
            answer = self._answers[kind] = self._find(kind)
        return answer

    def of_page(self, kind: Kind, users: Sequence[User]) -> tuple[Answer, list[User | None]]:
        """The same for a page with these users, and for each victim of the verdict the user that it is.

        Conditions are those of the kind: with thousands of users they would cost as many runs again.
        """
        answer = self.of_kind(kind)
        if answer.verdict is None:
            return answer, []
        nobody: list[User | None] = [None] * len(answer.verdict.victims)
        for recipe in recipes_for(kind.flags):
            try:
                verdict, seen = self._judge(recipe, kind, users, USUAL)
            except NotReproduced:
                continue
            answer = Answer(verdict, consequence(verdict), answer.conditions)
            return answer, [user for user, _victim in seen.victims]
        return answer, nobody

    def outcomes(self, kind: Kind) -> Iterator[tuple[str | None, Verdict]]:
        """The verdict in the usual situation (None), then in each other one that such a page can be in."""
        for recipe in recipes_for(kind.flags):
            try:
                usual, _seen = self._judge(recipe, kind, some_users(kind.mappers), USUAL)
            except NotReproduced:
                continue
            yield None, usual
            yield from self._variants(recipe, kind)

    def notes(self, kind: Kind) -> list[Note]:
        """The story of the handler's run on a page of this kind; empty if it cannot be told."""
        if self.of_kind(kind).verdict is None:
            return []
        for recipe in recipes_for(kind.flags):
            try:
                return story(self._plant(recipe, kind, some_users(kind.mappers), USUAL), self.profile)
            except NotReproduced:
                continue
        return []

    def _find(self, kind: Kind) -> Answer:
        judged: list[tuple[Recipe, Verdict]] = []
        reasons: list[str] = []
        for recipe in recipes_for(kind.flags):
            try:
                judged.append((recipe, self._judge(recipe, kind, some_users(kind.mappers), USUAL)[0]))
            except NotReproduced as reason:
                reasons.append(str(reason))
        if not judged:
            return _unknown(why_not(kind.flags) or "; ".join(reasons) or "the model has no page like this")
        recipe, usual = judged[0]
        if any(difference(usual, other) for _recipe, other in judged[1:]):
            ends = [f"{verdict.text()} if {recipe.what}" for recipe, verdict in judged]
            return _unknown(ENDS_DIFFERENTLY, *ends)
        conditions = [
            f"{differs} if {when}"
            for when, other in self._variants(recipe, kind)
            if (differs := difference(usual, other))
        ]
        return Answer(usual, consequence(usual), tuple(conditions))

    def _variants(self, recipe: Recipe, kind: Kind) -> Iterator[tuple[str, Verdict]]:
        """The verdict with each fact changed that /proc does not show, where such a page can exist."""
        users = some_users(kind.mappers)
        facts = [(variant.when, users, variant.of(USUAL)) for variant in VARIANTS]
        if kind.mappers is None:
            facts.append(("two processes map it (nobody counted)", some_users(SEVERAL), USUAL))
        for when, whose, situation in facts:
            try:
                yield when, self._judge(recipe, kind, whose, situation)[0]
            except NotReproduced:
                continue

    def _judge(
        self, recipe: Recipe, kind: Kind, users: Sequence[User], situation: Situation
    ) -> tuple[Verdict, Seen]:
        """Raises NotReproduced; also where the model breaks, so that one odd page does not end a forecast."""
        if situation.covered:
            users = [*users, User(len(users), populated=False)]
        try:
            return judge(self._plant(recipe, kind, users, situation), self.profile, situation.consumed)
        except KernelBug as bug:
            raise NotReproduced(f"{MODEL_BROKE}: {bug}") from bug

    def _plant(self, recipe: Recipe, kind: Kind, users: Sequence[User], situation: Situation) -> Planted:
        planted = plant(recipe, Wanted(kind, users, situation, self.profile.traits))
        planted.vm.sysctls.memory_failure_early_kill = self.policy.early_kill
        planted.vm.sysctls.memory_failure_recovery = self.policy.recovery
        return planted


def _unknown(*why: str) -> Answer:
    return Answer(None, Consequence.UNKNOWN, why)
