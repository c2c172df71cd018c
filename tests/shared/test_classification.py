"""Classification scores against scikit-learn and plain references; the Classifier with and without a trainer."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningDataModule, Trainer
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score, roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from shared.classification import Classifier
from shared.errors import UsageError
from shared.metrics.classification import (
    ClassificationMetrics,
    accuracy,
    auroc,
    balanced_accuracy,
    bootstrap_intervals,
    check_labels,
    expected_calibration_error,
    macro_f1,
)

NAMES = {"macro_f1", "accuracy", "balanced_accuracy", "loss", "auroc", "ece"}


def counted(target: Tensor, prediction: Tensor, num_classes: int) -> Tensor:
    return torch.from_numpy(confusion_matrix(target, prediction, labels=range(num_classes)))


def scores(logits: Tensor, target: Tensor, batch_size: int | None = None) -> dict[str, float]:
    metrics = ClassificationMetrics(logits.shape[1])
    for x, y in zip(logits.split(batch_size or len(logits)), target.split(batch_size or len(target)), strict=True):
        metrics.update(x, y)
    return {name: float(value) for name, value in metrics.compute().items()}


def random_set(seed: int, n: int = 200, c: int = 5, labels: tuple[int, ...] | None = None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(c, (n,), generator=generator)
    if labels is not None:
        target = torch.tensor(labels)[target % len(labels)]
    return torch.randn(n, c, generator=generator) + 1.5 * F.one_hot(target, c), target


# ---------------------------------------------------------------------------------------------- scores of a set


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_scores_of_a_confusion_matrix_equal_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    target, prediction = torch.tensor(pairs).T
    confusion = counted(target, prediction, 5)
    assert macro_f1(confusion).item() == pytest.approx(f1_score(target, prediction, average="macro", zero_division=0))
    assert accuracy(confusion).item() == pytest.approx(accuracy_score(target, prediction))
    recalls = [(prediction[target == c] == c).double().mean().item() for c in target.unique()]
    assert balanced_accuracy(confusion).item() == pytest.approx(np.mean(recalls))


def test_macro_f1_counts_a_predicted_class_without_targets_but_not_an_absent_one() -> None:
    # Class 0: 2 hits, 1 miss; class 1 is only predicted, wrongly; class 2 occurs nowhere.
    confusion = torch.tensor([[2, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert macro_f1(confusion).item() == pytest.approx((4 / 5 + 0) / 2)
    assert balanced_accuracy(confusion).item() == pytest.approx(2 / 3)


def test_scores_of_a_stack_of_confusion_matrices_are_the_stack_of_scores() -> None:
    stack = torch.randint(0, 9, (3, 4, 5, 5))
    for score in (macro_f1, balanced_accuracy, accuracy):
        one_by_one = torch.stack([score(matrix) for matrix in stack.view(-1, 5, 5)]).view(3, 4)
        assert torch.equal(score(stack), one_by_one)


@pytest.mark.parametrize("labels", [None, (0, 2, 3), (4,)], ids=["all", "two absent", "single class"])
def test_the_metric_set_equals_scikit_learn(labels: tuple[int, ...] | None) -> None:
    logits, target = random_set(1, labels=labels)
    result = scores(logits, target)
    prediction, probabilities = logits.argmax(1), logits.double().softmax(1).numpy()
    present = target.unique().tolist()
    assert set(result) == NAMES
    assert result["macro_f1"] == pytest.approx(f1_score(target, prediction, average="macro", zero_division=0))
    assert result["accuracy"] == pytest.approx(accuracy_score(target, prediction))
    assert result["loss"] == pytest.approx(F.cross_entropy(logits, target).item(), rel=1e-5)
    if len(present) == 1:
        assert math.isnan(result["auroc"])
        assert result["balanced_accuracy"] == pytest.approx(result["accuracy"])
    else:
        curves = [roc_auc_score(target == c, probabilities[:, c]) for c in present]
        assert result["auroc"] == pytest.approx(np.mean(curves), abs=1e-6)
    if labels is None:
        assert result["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(target, prediction))


def test_auroc_counts_ties_one_half_and_survives_a_softmax_that_rounds_above_one() -> None:
    target = torch.tensor([0, 1, 0, 1])
    assert auroc(torch.full((4, 2), 0.5), target).item() == pytest.approx(0.5)
    first = torch.tensor([1 + 1e-6, 0.2, 0.9, 0.2])
    assert auroc(torch.stack([first, 1 - first], 1), target).item() == pytest.approx(1.0)
    tied = torch.tensor([0.7, 0.7, 0.9, 0.1])
    expected = roc_auc_score(target, (1 - tied).numpy())
    assert auroc(torch.stack([tied, 1 - tied], 1), target).item() == pytest.approx(expected)


def plain_calibration_error(probabilities: Tensor, target: Tensor, bins: int) -> float:
    confidence, prediction = (part.tolist() for part in probabilities.double().max(1))
    total = 0.0
    for b in range(bins):
        inside = [i for i, p in enumerate(confidence) if b / bins < p <= (b + 1) / bins]
        if inside:
            correct = sum(prediction[i] == target[i].item() for i in inside) / len(inside)
            total += len(inside) / len(target) * abs(correct - sum(confidence[i] for i in inside) / len(inside))
    return total


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_equals_the_definition(bins: int) -> None:
    logits, target = random_set(2)
    probabilities = (3 * logits).softmax(1)
    expected = plain_calibration_error(probabilities, target, bins)
    assert expected_calibration_error(probabilities, target, bins).item() == pytest.approx(expected, abs=1e-9)


def test_calibration_error_keeps_certainty_in_the_last_bin() -> None:
    # Confidences 1 (wrong) and 0.95 (right) share the last bin, where their gaps partly cancel.
    probabilities = torch.tensor([[1.0, 0.0], [0.95, 0.05]], dtype=torch.float64)
    error = expected_calibration_error(probabilities, torch.tensor([1, 0]))
    assert error.item() == pytest.approx(abs(0.5 - 0.975))


def test_perfect_and_worst_predictions() -> None:
    target = torch.arange(3).repeat(5)
    best = scores(50.0 * F.one_hot(target, 3), target)
    assert [best[name] for name in ("macro_f1", "accuracy", "balanced_accuracy", "auroc")] == [1, 1, 1, 1]
    assert best["loss"] == pytest.approx(0, abs=1e-9)
    assert best["ece"] == pytest.approx(0, abs=1e-9)
    worst = scores(50.0 * F.one_hot((target + 1) % 3, 3), target)
    assert worst["macro_f1"] == 0
    assert worst["ece"] == pytest.approx(1)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_scores_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    logits, target = random_set(3)
    assert scores(logits, target, batch_size) == pytest.approx(scores(logits, target), abs=1e-9)


def test_the_mean_of_per_batch_f1_would_be_another_number() -> None:
    logits, target = random_set(3)
    per_batch = [scores(x, y)["macro_f1"] for x, y in zip(logits.split(20), target.split(20), strict=True)]
    assert abs(np.mean(per_batch) - scores(logits, target)["macro_f1"]) > 0.01


def test_a_diverged_network_has_no_loss_and_no_ranking_but_still_a_confusion_matrix() -> None:
    result = scores(torch.full((4, 2), torch.nan), torch.tensor([0, 1, 0, 1]))
    assert result["accuracy"] == 0.5
    assert all(math.isnan(result[name]) for name in ("loss", "auroc", "ece"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_half_precision_logits_are_scored_in_single_precision(dtype: torch.dtype) -> None:
    logits, target = random_set(4)
    logits = logits.to(dtype)
    assert scores(logits, target) == pytest.approx(scores(logits.float(), target), abs=1e-6)


def test_metrics_keep_what_they_saw_until_reset_and_hold_nothing_in_the_state_dict() -> None:
    logits, target = random_set(5)
    metrics = ClassificationMetrics(5, sync_on_compute=False)
    for x, y in zip(logits.split(50), target.split(50), strict=True):
        metrics.update(x, y.to(torch.uint8))
    probabilities, targets = metrics.stored()
    assert torch.equal(metrics.confusion, counted(target, logits.argmax(1), 5))
    assert torch.equal(targets, target)
    assert torch.allclose(probabilities, logits.softmax(1))
    assert metrics.state_dict() == {}
    metrics.reset()
    with pytest.warns(UserWarning, match="was called before"), pytest.raises(UsageError, match="at least one item"):
        metrics.compute()


def test_ranks_with_parts_of_the_set_compute_the_scores_of_the_whole() -> None:
    logits, target = random_set(6)
    other = ClassificationMetrics(5)
    other.update(logits[120:], target[120:])
    sent = iter([other.confusion, other.nll, *other.stored()])  # in the order of the states
    ours = ClassificationMetrics(
        5, distributed_available_fn=lambda: True, dist_sync_fn=lambda state, group: [state, next(sent)]
    )
    ours.update(logits[:70], target[:70])
    ours.update(logits[70:120], target[70:120])
    merged = {name: float(value) for name, value in ours.compute().items()}
    assert merged == pytest.approx(scores(logits, target), abs=1e-9)


def test_ranks_that_all_saw_the_whole_set_need_no_communication() -> None:
    logits, target = random_set(6)

    def fail(*_: object) -> list[Tensor]:
        raise AssertionError("states were sent")

    metrics = ClassificationMetrics(5, sync_on_compute=False, distributed_available_fn=lambda: True, dist_sync_fn=fail)
    metrics.update(logits, target)
    alone = {name: float(value) for name, value in metrics.compute().items()}
    twice = scores(torch.cat([logits, logits]), torch.cat([target, target]))
    assert alone == pytest.approx(twice, abs=1e-9)  # and merging such ranks would change nothing


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_scores_on_the_accelerator_equal_those_on_the_processor() -> None:
    logits, target = random_set(6)
    metrics = ClassificationMetrics(5).to("cuda")
    metrics.update(logits.cuda(), target.cuda())
    scored = {name: float(value) for name, value in metrics.compute().items()}
    assert scored == pytest.approx(scores(logits, target), abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 3, 1]), r"0\.\.2 \(num_classes=3\), got label 3"),
        (torch.tensor([0, -1, 1]), "got label -1"),
        (torch.tensor([0.0, 1.0, 2.0]), "integers in 0..2, got a tensor of torch.float32"),
        (torch.tensor([True, False, True]), "torch.bool"),
    ],
)
def test_wrong_labels_are_refused_by_name(labels: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_labels(labels, 3)
    with pytest.raises(UsageError, match=message):
        ClassificationMetrics(3).update(torch.zeros(3, 3), labels)


def test_wrong_shapes_are_refused() -> None:
    metrics = ClassificationMetrics(3)
    for logits, target in ((torch.zeros(4, 2), torch.zeros(4)), (torch.zeros(4, 3), torch.zeros(3))):
        with pytest.raises(UsageError, match="num_classes=3"):
            metrics.update(logits, target.long())
    with pytest.raises(UsageError, match="num_classes must be at least 2, got 1"):
        ClassificationMetrics(1)


# ---------------------------------------------------------------------------------------------- bootstrap


def test_bootstrap_is_fixed_by_its_seed() -> None:
    logits, target = random_set(7)
    prediction, groups = logits.argmax(1), torch.arange(200) // 4
    for ids in (None, groups):
        first = bootstrap_intervals(target, prediction, 5, groups=ids, seed=3)
        assert bootstrap_intervals(target, prediction, 5, groups=ids, seed=3) == first
        assert bootstrap_intervals(target, prediction, 5, groups=ids, seed=4) != first
        for name, score in (("macro_f1", macro_f1), ("accuracy", accuracy)):
            low, high = first[name]
            assert 0 <= low < score(counted(target, prediction, 5)).item() < high <= 1


def test_bootstrap_equals_drawing_items_one_by_one() -> None:
    logits, target = random_set(8, n=80, c=3)
    prediction = logits.argmax(1)
    rng = np.random.default_rng(0)
    draws = rng.integers(0, 80, (2000, 80))
    plain = [f1_score(target[rows], prediction[rows], average="macro", zero_division=0) for rows in draws[:300]]
    hits = (target == prediction).double().numpy()[draws].mean(1)
    intervals = bootstrap_intervals(target, prediction, 3, resamples=20000)
    assert intervals["macro_f1"] == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.04)
    assert intervals["accuracy"] == pytest.approx(np.quantile(hits, [0.025, 0.975]), abs=0.02)


def test_groups_of_one_item_resample_items() -> None:
    logits, target = random_set(9)
    prediction = logits.argmax(1)
    alone = bootstrap_intervals(target, prediction, 5, groups=torch.randperm(200), resamples=10000)
    items = bootstrap_intervals(target, prediction, 5, resamples=10000)
    for name in items:
        assert alone[name] == pytest.approx(items[name], abs=0.01)


def test_copies_of_an_item_in_one_group_do_not_narrow_the_interval() -> None:
    logits, target = random_set(10)
    prediction = logits.argmax(1)
    copies = [ids.repeat_interleave(10) for ids in (target, prediction, torch.arange(200))]

    def width(interval: tuple[float, float]) -> float:
        return interval[1] - interval[0]

    items = width(bootstrap_intervals(target, prediction, 5)["accuracy"])
    grouped = width(bootstrap_intervals(copies[0], copies[1], 5, groups=copies[2])["accuracy"])
    naive = width(bootstrap_intervals(copies[0], copies[1], 5)["accuracy"])
    assert grouped == pytest.approx(items, rel=0.1)
    assert naive == pytest.approx(items / math.sqrt(10), rel=0.1)


def test_intervals_cover_a_known_accuracy_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(300):
        target = torch.from_numpy(rng.integers(0, 2, 120))
        wrong = torch.from_numpy(rng.random(120) > 0.8)
        low, high = bootstrap_intervals(target, target ^ wrong.long(), 2, resamples=400, seed=trial)["accuracy"]
        covered += low <= 0.8 <= high
    assert 0.90 <= covered / 300 <= 0.99


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confidence": 1.0}, "confidence must lie strictly between 0 and 1, got 1.0"),
        ({"resamples": 0}, "resamples must be at least 1, got 0"),
        ({"groups": torch.zeros(3)}, r"got lengths \[4, 4, 3\]"),
        ({"target": torch.tensor([0, 1, 2, 0])}, "got label 2"),
    ],
)
def test_bootstrap_refuses_wrong_input(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"target": torch.tensor([0, 1, 1, 0]), "prediction": torch.tensor([0, 1, 0, 0])}
    with pytest.raises(UsageError, match=message):
        bootstrap_intervals(**(arguments | change), num_classes=2)


# ---------------------------------------------------------------------------------------------- the module


class Blobs(LightningDataModule):
    """Three well separated clouds of points in the plane."""

    def __init__(self, val_is_test: bool | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        y = torch.arange(90) % 3
        centres = torch.tensor([[0.0, 3.0], [3.0, -2.0], [-3.0, -2.0]])
        self.data = TensorDataset(centres[y] + 0.3 * torch.randn(90, 2, generator=generator), y)
        if val_is_test is not None:
            self.val_is_test = val_is_test

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.data, batch_size=16)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


def classifier(**kwargs: Any) -> Classifier:
    torch.manual_seed(0)
    return Classifier(nn.Linear(2, 3), 3, **kwargs)


def trainer(folder: Path, **kwargs: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=folder, enable_checkpointing=False, **(quiet | kwargs))


def test_loss_and_its_gradient_equal_the_formula() -> None:
    weights, smoothing = [1.0, 2.0, 0.5], 0.1
    model = classifier(class_weights=weights, label_smoothing=smoothing)
    x, y = torch.randn(6, 2), torch.tensor([0, 1, 2, 2, 1, 0])
    loss = model.loss((x, y))
    loss.backward()

    twin = classifier().network
    log_p, w = twin(x).log_softmax(1), torch.tensor(weights)
    target = (1 - smoothing) * F.one_hot(y, 3) + smoothing / 3
    plain = -(w * target * log_p).sum() / w[y].sum()
    plain.backward()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    for ours, theirs in zip(model.network.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


def test_loss_and_update_need_no_trainer_and_work_on_a_deep_copy() -> None:
    model = classifier()
    worker = copy.deepcopy(model)
    batch = (torch.randn(5, 2), torch.tensor([0, 1, 2, 1, 0], dtype=torch.int32))
    worker.loss(batch).backward()
    assert model.network.weight.grad is None
    metrics = ClassificationMetrics(3)
    worker.update(metrics, batch)
    assert set(metrics.compute()) == NAMES
    assert not metrics.stored()[0].requires_grad
    assert set(model.state_dict()) == {"network.weight", "network.bias"}
    assert set(classifier(class_weights=[1.0, 2.0, 3.0]).state_dict()) == {"network.weight", "network.bias"}


def test_training_learns_and_logs_each_score_under_its_prefix(tmp_path: Path) -> None:
    model, data = classifier(lr=0.1), Blobs()
    fit = trainer(tmp_path, max_epochs=5)
    fit.fit(model, datamodule=data)
    assert {f"val/{name}" for name in NAMES} <= set(fit.callback_metrics)
    assert fit.callback_metrics["val/macro_f1"] > 0.95
    assert "train/loss" in fit.callback_metrics

    (tested,) = fit.test(model, datamodule=data, verbose=False)
    assert set(tested) == {f"test/{name}" for name in NAMES}
    assert tested["test/macro_f1"] == pytest.approx(float(fit.callback_metrics["test/macro_f1"]))
    assert model.metrics.confusion.sum() == 90  # still there after the run, without the sanity check's items

    probabilities = torch.cat(fit.predict(model, datamodule=data))
    assert torch.allclose(probabilities.sum(1), torch.ones(90))
    assert torch.equal(probabilities, model.metrics.stored()[0])


@pytest.mark.parametrize(("val_is_test", "prefix"), [(True, "test"), (False, "val"), (None, "val")])
def test_validation_on_the_test_set_is_called_test(tmp_path: Path, val_is_test: bool | None, prefix: str) -> None:
    run = trainer(tmp_path)
    (logged,) = run.validate(classifier(), datamodule=Blobs(val_is_test), verbose=False)
    assert set(logged) == {f"{prefix}/{name}" for name in NAMES}


def test_logged_scores_equal_those_of_the_whole_set(tmp_path: Path) -> None:
    model, data = classifier(), Blobs()
    (logged,) = trainer(tmp_path).validate(model, dataloaders=data.train_dataloader(), verbose=False)
    expected = scores(model.network(data.data.tensors[0]).detach(), data.data.tensors[1])
    assert {name.removeprefix("val/"): value for name, value in logged.items()} == pytest.approx(expected, abs=1e-6)


def test_optimizer_is_adamw_with_the_given_rates() -> None:
    optimizer = classifier(lr=0.3, weight_decay=0.2).configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.3, 0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_weights": [1.0, 2.0]}, r"one weight per class \(3\), got \[1.0, 2.0\]"),
        ({"class_weights": [1.0, 0.0, 2.0]}, "class_weights must be positive"),
        ({"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\), got 1.0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        classifier(**arguments)


def test_wrong_batches_are_refused() -> None:
    with pytest.raises(UsageError, match=r"labels must lie in 0\.\.2 .* got label 3"):
        classifier().loss((torch.randn(2, 2), torch.tensor([0, 3])))
    with pytest.raises(UsageError, match=r"num_classes=4 needs a network with outputs of shape \(2, 4\), got \(2, 3\)"):
        Classifier(nn.Linear(2, 3), 4).loss((torch.randn(2, 2), torch.tensor([0, 3])))
