"""Under which attacks a rule collapses, and what that says about the claim that FedSECA alone never does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

CLEAN = "NoAttack"
DEFINITION = (
    "A rule collapses under an attack where its training blows up, or where it ends below half of its own score "
    "without attack (means over the seeds)."
)


@dataclass(frozen=True)
class Outcome:
    """The runs of one rule under one attack, seed by seed.

    Attributes:
        scores: One per seed.
        blown_up: Per seed, whether training ended in numbers that are not finite.
    """

    scores: Sequence[float]
    blown_up: Sequence[bool]


@dataclass(frozen=True)
class Collapse:
    """What happened to a rule under one attack.

    Attributes:
        attack: The attack.
        whole: Whether the rule collapses there; if not, it does so in some seeds alone.
        seeds: In how many seeds it collapses by itself.
        of: How many seeds there are.
    """

    attack: str
    whole: bool
    seeds: int
    of: int

    def __str__(self) -> str:
        return self.attack + ("" if self.seeds == self.of else f" ({self.seeds} of {self.of} seeds)")


def collapses(outcomes: Mapping[str, Outcome]) -> list[Collapse]:
    """Where a rule collapses, as :data:`DEFINITION` says, or does so in some of the seeds.

    Each seed is also judged by itself, against the same seed without attack. A blow-up in any seed is a collapse, also
    without attack.

    Args:
        outcomes: Of one rule, by attack, :data:`CLEAN` among them; seeds in the same order everywhere.

    Example:
        >>> steady = [False, False]
        >>> runs = {"NoAttack": Outcome([0.8, 0.8], steady), "IPM": Outcome([0.1, 0.2], steady)}
        >>> [str(c) for c in collapses(runs | {"Fang": Outcome([0.3, 0.7], steady)})]
        ['IPM', 'Fang (1 of 2 seeds)']
    """
    clean = outcomes[CLEAN].scores
    found = []
    for attack, outcome in outcomes.items():
        runs = zip(outcome.scores, clean, outcome.blown_up, strict=True)
        seeds = sum(blown_up or score < reference / 2 for score, reference, blown_up in runs)
        whole = any(outcome.blown_up) or mean(outcome.scores) < mean(clean) / 2
        if whole or seeds:
            found.append(Collapse(attack, whole, seeds, len(clean)))
    return found


def told(found: Sequence[Collapse]) -> str:
    """Collapses in a few words.

    Example:
        >>> told([Collapse("IPM", True, 2, 2), Collapse("Fang", False, 1, 2)])
        'IPM; in the mean not, but in some seeds: Fang (1 of 2 seeds)'
        >>> told([])
        'none'
    """
    whole = ", ".join(str(collapse) for collapse in found if collapse.whole) or "none"
    some = ", ".join(str(collapse) for collapse in found if not collapse.whole)
    return whole + (f"; in the mean not, but in some seeds: {some}" if some else "")


def verdict(found: Mapping[str, Sequence[Collapse]]) -> str:
    """Whether every other rule collapses somewhere and FedSECA nowhere, in a sentence or two.

    Args:
        found: Collapses by rule; a rule with options counts as FedSECA if its class is FedSECA.

    Returns:
        Nothing where there is no FedSECA or no other rule.

    Example:
        >>> verdict({"FedSECA": [], "Krum": [Collapse("IPM", True, 1, 1)], "DOS": []})
        'The claim that every other rule collapses somewhere and FedSECA nowhere does not hold here: DOS does not \
collapse.'
    """
    ours = [rule for rule in found if rule.partition(":")[0].rpartition(".")[2] == "FedSECA"]
    others = [rule for rule in found if rule not in ours]
    if not ours or not others:
        return ""
    under = {rule: [collapse.attack for collapse in found[rule] if collapse.whole] for rule in found}
    against = [f"{rule} collapses under {', '.join(under[rule])}" for rule in ours if under[rule]]
    steady = [rule for rule in others if not under[rule]]
    if steady:
        against.append(f"{', '.join(steady)} {'does' if len(steady) == 1 else 'do'} not collapse")
    claim = "The claim that every other rule collapses somewhere and FedSECA nowhere"
    if against:
        return f"{claim} does not hold here: {'; '.join(against)}."
    return f"{claim} holds here."
