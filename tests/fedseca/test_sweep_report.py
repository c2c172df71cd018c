"""What ``fedseca sweep`` says about its runs: means over seeds, worst cases, collapses, the claim, the files."""

import re
from pathlib import Path

import pytest
from PIL import Image

from fedseca.collapse import Collapse, Outcome, collapses, told, verdict
from fedseca.sweep_report import write_report
from shared.sweep import Row

RULES, ATTACKS = ["FedSECA", "Krum:b=1", "DOS"], ["NoAttack", "IPM", "ALIE:z=0.5"]
SCORES = {
    "FedSECA": {"NoAttack": [0.8, 0.9], "IPM": [0.7, 0.8], "ALIE:z=0.5": [0.6, 0.7]},
    "Krum:b=1": {"NoAttack": [0.8, 0.8], "IPM": [0.3, 0.1], "ALIE:z=0.5": [0.3, 0.7]},
    "DOS": {"NoAttack": [0.7, 0.7], "IPM": [0.5, 0.5], "ALIE:z=0.5": [0.6, 0.6]},
}
SD = "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"
COMMAND = "fedseca sweep --rules '[FedSECA, \"Krum:b=1\", DOS]' --seeds '[1, 2]'"


def rows(partition: str, shift: float = 0.0, blown_up: tuple[str, str, int] | None = None) -> list[Row]:
    """In an order of their own, as workers bring them."""
    return [
        {
            **{"partition": partition, "rule": rule, "attack": attack, "seed": str(seed)},
            **{"macro_f1": f"{SCORES[rule][attack][seed - 1] - shift:.6f}", "data": "blobs", "provenance": "synthetic"},
            **{"seconds": "1.5", "ended": "no good uploads" if (rule, attack, seed) == blown_up else ""},
        }
        for seed in (2, 1)
        for attack in reversed(ATTACKS)
        for rule in RULES
    ]


def lines(text: str) -> list[list[str]]:
    """The cells of all lines of the Markdown tables in a text."""
    return [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line.startswith("|")
    ]


def test_every_partition_has_its_table_its_heat_map_and_its_verdict(tmp_path: Path) -> None:
    both = rows("IID", 0.05) + rows("Dirichlet:alpha=0.5")
    printed = write_report(both, RULES, ATTACKS, ["IID", "Dirichlet:alpha=0.5"], 25, tmp_path, COMMAND)
    written = (tmp_path / "table.md").read_text()
    assert written.strip() in printed
    assert f"report: {tmp_path / 'report.html'}" in printed
    first, second = written.split("macro-F1 after round 25, ")[1:]
    assert first.startswith("blobs (synthetic data), IID, mean ± sd of seeds 1, 2\n")
    assert second.startswith("blobs (synthetic data), Dirichlet:alpha=0.5, mean ± sd of seeds 1, 2\n")
    assert lines(second) == [
        ["rule", "no attack", "IPM", "ALIE:z=0.5", "worst", "mean", "impact", "collapses under"],
        ["-" * len(cell) for cell in lines(second)[1]],
        ["FedSECA", f"0.850{SD}0.071", f"0.750{SD}0.071", f"0.650{SD}0.071", "0.650", "0.700", "0.200", "none"],
        [
            *("Krum:b=1", f"0.800{SD}0.000", f"0.200{SD}0.141", f"0.500{SD}0.283", "0.200", "0.350", "0.600"),
            "IPM; in the mean not, but in some seeds: ALIE:z=0.5 (1 of 2 seeds)",
        ],
        ["DOS", f"0.700{SD}0.000", f"0.500{SD}0.000", f"0.600{SD}0.000", "0.500", "0.550", "0.200", "none"],
    ]
    assert lines(first)[2][:2] == ["FedSECA", f"0.800{SD}0.071"]  # each partition counts its own runs alone
    claim = "FedSECA nowhere does not hold here: DOS does not collapse."
    assert first.count(claim) == second.count(claim) == 1
    page = (tmp_path / "report.html").read_text()
    assert page.count(claim) == 2
    assert page.count("synthetic") >= 2
    assert (tmp_path / "command.txt").read_text() == COMMAND + "\n"
    for name in ("heatmap_IID.png", "heatmap_Dirichlet_alpha_0.5.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.format == "PNG"
    assert not list(tmp_path.glob("*.tmp"))


def test_a_blow_up_is_starred_and_a_collapse_and_counted_by_seeds(tmp_path: Path) -> None:
    text = write_report(rows("IID", blown_up=("DOS", "ALIE:z=0.5", 2)), RULES, ATTACKS, ["IID"], 25, tmp_path, COMMAND)
    assert "; * training blew up, the score is that of the last model before\n" in text
    dos = lines(text)[-1]
    assert dos[3] == f"0.600{SD}0.000*"
    assert dos[-1] == "ALIE:z=0.5 (1 of 2 seeds)"
    assert sum("*" in cell for line in lines(text) for cell in line) == 1
    assert "FedSECA nowhere holds here." in text


def test_one_seed_has_neither_spread_nor_counts_of_seeds(tmp_path: Path) -> None:
    one = [row for row in rows("IID") if row["seed"] == "1"]
    text = write_report(one, RULES, ATTACKS, ["IID"], 25, tmp_path, COMMAND)
    assert ", IID, seed 1\n" in text
    assert lines(text)[3] == ["Krum:b=1", "0.800", "0.300", "0.300", "0.300", "0.300", "0.500", "IPM, ALIE:z=0.5"]


def test_without_a_clean_run_nothing_is_judged(tmp_path: Path) -> None:
    hostile = [row for row in rows("IID") if row["attack"] != "NoAttack"]
    text = write_report(hostile, RULES, ATTACKS[1:], ["IID"], 25, tmp_path, COMMAND)
    assert lines(text)[0] == ["rule", "IPM", "ALIE:z=0.5", "worst", "mean"]
    assert "collapse" not in text
    clean = [row for row in rows("IID") if row["attack"] == "NoAttack"]
    text = write_report(clean, RULES, ["NoAttack"], ["IID"], 25, tmp_path, COMMAND)
    assert lines(text)[0] == ["rule", "no attack"]


# ---------------------------------------------------------------------- collapses


def outcome(*scores: float, blown_up: int | None = None) -> Outcome:
    return Outcome(scores, [seed == blown_up for seed in range(len(scores))])


def test_half_of_the_own_clean_score_is_no_collapse_yet() -> None:
    clean = {"NoAttack": outcome(0.8)}
    assert collapses(clean | {"A": outcome(0.4)}) == []
    assert collapses(clean | {"A": outcome(0.399)}) == [Collapse("A", True, 1, 1)]


def test_the_mean_decides_and_the_seeds_are_counted() -> None:
    clean = {"NoAttack": outcome(0.8, 0.8, 0.8)}
    assert collapses(clean | {"A": outcome(0.0, 0.5, 0.5)}) == [Collapse("A", True, 1, 3)]
    assert collapses(clean | {"A": outcome(0.3, 0.8, 0.8)}) == [Collapse("A", False, 1, 3)]
    assert collapses(clean | {"A": outcome(0.1, 0.1, 0.1)}) == [Collapse("A", True, 3, 3)]
    # Each seed is measured against its own clean run.
    assert collapses({"NoAttack": outcome(0.9, 0.3), "A": outcome(0.5, 0.2)}) == []
    assert collapses({"NoAttack": outcome(0.9, 0.3), "A": outcome(0.44, 0.2)}) == [Collapse("A", False, 1, 2)]


def test_a_rule_that_blows_up_without_attack_collapses_too() -> None:
    assert collapses({"NoAttack": outcome(0.8, 0.8, blown_up=1)}) == [Collapse("NoAttack", True, 1, 2)]


def test_what_is_told() -> None:
    found = [Collapse("A", True, 3, 3), Collapse("B", True, 2, 3), Collapse("C", False, 1, 3)]
    assert told(found[:2]) == "A, B (2 of 3 seeds)"
    assert told(found[2:]) == "none; in the mean not, but in some seeds: C (1 of 3 seeds)"


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ({"FedSECA": [], "Krum": ["IPM"]}, "holds here."),
        ({"FedSECA": [], "Krum": [], "DOS": [], "RFA": ["IPM"]}, "does not hold here: Krum, DOS do not collapse."),
        ({"FedSECA": ["Fang"], "Krum": ["IPM"]}, "does not hold here: FedSECA collapses under Fang."),
        (
            {"FedSECA": [], "FedSECA:beta=0": ["IPM", "Fang"], "Krum": []},
            "does not hold here: FedSECA:beta=0 collapses under IPM, Fang; Krum does not collapse.",
        ),
    ],
)
def test_the_verdict(found: dict[str, list[str]], sentence: str) -> None:
    text = verdict({rule: [Collapse(attack, True, 1, 1) for attack in under] for rule, under in found.items()})
    assert re.fullmatch(rf"The claim that every other .* and FedSECA nowhere {re.escape(sentence)}", text)


def test_a_collapse_in_some_seeds_alone_does_not_decide_the_claim() -> None:
    some = Collapse("IPM", False, 1, 3)
    assert verdict({"FedSECA": [some], "Krum": [some]}).endswith("does not hold here: Krum does not collapse.")


def test_no_verdict_without_both_sides() -> None:
    assert verdict({"FedSECA": []}) == verdict({"Krum": [], "DOS": []}) == ""
