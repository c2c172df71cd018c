"""``fedsam describe`` against the counts of the paper and of its released code."""

import re
from pathlib import Path

import pytest

from fedsam.describe import described
from shared.errors import UsageError


def facts(text: str) -> dict[str, list[str]]:
    """The lines of the tables by their first cell."""
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    return {row[0].removesuffix(" *"): row[1:] for row in rows if len(row) > 1}


def test_the_papers_run_without_its_data() -> None:
    text = described(["describe", "--config", "flap_kits"])
    assert "not at hand: needs --data.source.root" in text
    assert "1,846,384 numbers in a message, 49.03 times fewer than full fine-tuning (90,532,927)" in text
    known = facts(text)
    assert known["a message, up or down"][0] == "7,385,536 B"
    assert known["the run of 25 rounds, both ways"][:2] == ["2,215,660,800 B", "2.216 GB"]
    assert known["encoder.lora"][:2] == ["1,179,648", "1,179,648"]
    assert known["encoder.attn"][:2] == ["28,389,888", "0"]
    # Variant, numbers, the paper's unit, how many times less than full fine-tuning.
    for variant, numbers, unit, times in (
        ("full", 90_532_927, "67.452", "1.0"),
        ("attn", 30_053_104, "22.391", "3.0"),
        ("attn_paper", 31_681_152, "23.604", "2.9"),
        ("decoder", 3_902_195, "2.907", "23.2"),
        ("partial_decoder", 478_320, "0.356", "189.3"),
        ("lora", 1_368_064, "1.019", "66.2"),
        ("lora_decoder", 5_270_259, "3.927", "17.2"),
        ("flap", 1_846_384, "1.376", "49.0"),
        ("masam", 28_800_831, "21.458", "3.1"),
    ):
        assert known[variant][0] == f"{numbers:,}", variant
        assert known[variant][1] == f"{4 * numbers:,} B"
        assert known[variant][-2:] == [unit, times]
    assert "flap *" in text


def test_the_default_with_its_data() -> None:
    text = described(["describe", "--data.in_memory", "true", "--data.source.train", "[2, 1, 1]"])
    assert "data: mini-ixi (derived), classes brain, batches of 4 windows" in text
    assert facts(text)["site-A"] == ["2", "2", "2", "180", "36", "9"]


def test_what_is_told_goes_before_the_data() -> None:
    text = described(["describe", "--config", "flap_512", "--classes", "2", "--clients", "6"])
    assert text.splitlines()[0].endswith("rank 32, 2 classes and background, random weights")
    assert "data: not those of data.source, but 2 classes at 6 sites, as told" in text
    assert facts(text)["a round of 6 sites, up"][0] == f"{6 * 7_385_536:,} B"
    assert facts(text)["full"][0] == "91,187,263"


def test_another_regime_rank_and_number_of_sites() -> None:
    words = ["describe", "--config", "flap_224", "--model.regime", "local", "--classes", "1", "--clients", "2"]
    source = ["--data.source", "SiteFolders"]
    text = described([*words, *source, "--model.variant", "lora", "--model.rank", "8", "--model.participation", "0.5"])
    known = facts(text)
    assert known["lora"][0] == f"{4 * 12 * 8 * 768 + 5888 * 8:,}"
    assert "a round of 1 sites, up" in known
    assert text.splitlines()[1].startswith("local: 2 sites")


def test_data_of_an_unknown_kind(tmp_path: Path) -> None:
    words = ["describe", "--data.source", "Decathlon", "--data.source.root", str(tmp_path / "absent")]
    with pytest.raises(
        UsageError, match=r"absent; without the data of Decathlon describe needs --classes and --clients$"
    ):
        described(words)
    with pytest.raises(UsageError, match=r"without the data of Decathlon describe needs --clients$"):
        described([*words, "--classes", "2"])
    with pytest.raises(UsageError, match=r"data.sites must name each site once"):
        described(["describe", "--data.sites", "[site-A, site-A]"])
