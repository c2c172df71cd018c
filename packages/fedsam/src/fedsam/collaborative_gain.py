"""What sites gain by training together, from the records of two runs."""

from collections.abc import Mapping
from typing import Any, Literal

from shared.errors import UsageError
from shared.federated.evaluation import collaborative_gain


def site_scores(
    record: Mapping[str, Any], split: Literal["val", "test"] = "test", score: str = "dice"
) -> dict[int, float]:
    """Client to the score of the model that it uses on the volumes of its own site.

    That is its own model where it has one (``model_K/dice/site_S``), else the one that all share (``dice/site_S``).
    Sites without volumes in the set are left out.

    Args:
        record: Content of a run's ``results.json`` or ``results_test.json``.
        split: Which volumes.
        score: Name of the score.
    """
    metrics, found = record["metrics"], {}
    for client, told in record["data"]["clients"].items():
        name = f"{score}/site_{told['site']}"
        value = metrics.get(f"{split}/model_{client}/{name}", metrics.get(f"{split}/{name}"))
        if value is not None:
            found[int(client)] = float(value)
    return found


def gain_of_runs(
    federated: Mapping[str, Any],
    local: Mapping[str, Any],
    split: Literal["val", "test"] = "test",
    score: str = "dice",
) -> float:
    r"""The collaborative gain, :math:`\frac1K \sum_k (s_k^{federated} - s_k^{local})`, a share of 1 (not points).

    Args:
        federated: Record of a run with regime ``federated``.
        local: Record of a run with regime ``local`` on the same data.
        split: Which volumes.
        score: Name of the score.

    Raises:
        UsageError: A run of another regime, or runs on different data.
    """
    for record, regime in ((federated, "federated"), (local, "local")):
        if record["model"]["regime"] != regime:
            raise UsageError(
                f"a collaborative gain needs a federated and a local run, got regime {record['model']['regime']} "
                f"for the {regime} one"
            )
    different = [key for key in federated["data"] if federated["data"][key] != local["data"].get(key)]
    if different:
        raise UsageError(f"a collaborative gain needs two runs on the same data, got different {different[0]}")
    return collaborative_gain(site_scores(federated, split, score), site_scores(local, split, score))
