"""``fedseca describe`` against the sizes that are known of the paper's models."""

import re
from pathlib import Path

import pytest

from fedseca.describe import described
from shared.errors import UsageError


def facts(text: str) -> dict[str, list[str]]:
    """The lines of the tables by their first cell."""
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) > 1}


@pytest.mark.parametrize(
    ("config", "coordinates", "parameters", "upload", "round_bytes", "clients"),
    [
        ("cifar10_resnet18", "11,191,242", "11,181,642", "44.76 MB", "447.6 MB", 5),
        ("isic2019_convnext", "14,958,329", "14,958,329", "59.83 MB", "718 MB", 6),
        ("eurosat_deit", "21,669,514", "21,669,514", "86.68 MB", "1.213 GB", 7),
    ],
)
def test_the_papers_runs_without_their_data(
    config: str, coordinates: str, parameters: str, upload: str, round_bytes: str, clients: int
) -> None:
    text = described(["describe", "--config", config])
    assert f"d = {coordinates} numbers in an upload" in text
    assert "not at hand: needs --data.source.root" in text
    known = facts(text)
    assert known["together"][0] in {parameters, "62", "122"} or parameters in text
    assert known["an upload, or a download"][0] == upload
    assert known[f"a round of {clients} clients, both ways"][0] == round_bytes
    assert parameters in text
    assert "hostile: clients 3, 4 (2 of" in text


def test_the_running_statistics_of_the_resnet_are_counted() -> None:
    text = described(["describe", "--config", "cifar10_resnet18", "--model.include_buffers", "false"])
    assert "d = 11,191,242 numbers in an upload, of which the rule sees 11,181,642" in text
    assert re.search(r"together +11,181,642 +9,600 +20\n", text)


def test_the_default_with_its_data() -> None:
    text = described(["describe", "--model.aggregator", "Krum", "--model.client.keep_optimizer", "true"])
    assert "fashion-mnist-mini (real), 3,000 train, 1,000 test images of 28 x 28" in text
    assert "is told that at most 2 of the clients are hostile" in text
    assert "needs at least 5 uploads" in text
    known = facts(text)
    assert known["3"] == ["630", "10", "20", "hostile"]  # 630 images in batches of 32
    # Two moments of each of 421,642 parameters and one counter for each of eight tensors.
    assert "5 clients, 3 versions of 3.373 MB" in text


def test_what_fit_would_refuse_is_told() -> None:
    assert "fit would refuse this: model.byzantine must leave more honest than hostile clients, got 2 hostile of 4" in (
        described(["describe", "--data.clients", "4", "--model.byzantine", "[2, 3]"])
    )
    assert "needs an update that the server computes on clean data" in described(
        ["describe", "--model.aggregator", "FLTrust"]
    )


def test_data_of_an_unknown_kind(tmp_path: Path) -> None:
    words = ["describe", "--data.source", "ImageFolder", "--data.source.root", str(tmp_path / "absent")]
    with pytest.raises(UsageError, match=r"needs the data or --data.channels and --classes to build the model; Image"):
        described(words)
    with pytest.raises(UsageError, match=r"needs the data or --classes to build the model; ImageFolder: .*absent"):
        described([*words, "--data.channels", "3"])
    text = described([*words, "--data.channels", "3", "--classes", "7"])
    assert "3 channels to 7 classes" in text


def test_wrong_options_are_still_refused() -> None:
    with pytest.raises(UsageError, match=r"data.clients must leave every client 2 items"):
        described(["describe", "--data.clients", "2000"])
    with pytest.raises(UsageError, match=r"unknown option"):
        described(["describe", "--no_such", "1"])
