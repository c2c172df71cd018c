"""Run folders and ``metrics.csv``."""

from pathlib import Path

import pytest
import torch

from shared.errors import UsageError
from shared.runs import RunLogger, mean_of_last, new_run_folder, package_of_run, peak_gpu_memory, read_metrics


def test_folders_are_numbered(tmp_path: Path) -> None:
    names = [new_run_folder(tmp_path, "fedseca", "fit").name for _ in range(3)]
    assert names == ["version_0", "version_1", "version_2"]
    (tmp_path / "fedseca" / "fit" / "version_1").rmdir()
    assert new_run_folder(tmp_path, "fedseca", "fit").name == "version_3"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/tmp/x"])
def test_a_run_stays_below_its_root(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--run.name must be the name of one folder, below --run.root, got"):
        new_run_folder(tmp_path, "fedseca", name)
    assert not list(tmp_path.iterdir())


def test_a_run_folder_tells_whose_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("# fedsam fit --x 1\nmodel: 1\n")
    assert package_of_run(tmp_path) == "fedsam"
    (tmp_path / "config.yaml").write_text("model: 1\n")
    assert package_of_run(tmp_path) is None


def test_metrics_of_a_step_share_a_row(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, "fedseca", "fit")
    for epoch in range(3):
        logger.log_metrics({"test/f1": 0.5 + epoch, "epoch": epoch}, step=epoch)
        logger.log_metrics({"train/loss": 1.0, "epoch": epoch} | ({"late": 7.0} if epoch else {}), step=epoch)
        logger.save()
    logger.finalize("success")
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "epoch,step,test/f1,train/loss,late",
        "0,0,0.5,1,",
        "1,1,1.5,1,7",
        "2,2,2.5,1,7",
    ]
    assert read_metrics(tmp_path / "metrics.csv")["late"] == [(1, 7.0), (2, 7.0)]


def test_rows_are_written_as_they_come_and_grow(tmp_path: Path) -> None:
    logger, file = RunLogger(tmp_path, "fedseca", "fit"), tmp_path / "metrics.csv"
    logger.log_metrics({"loss": 10.0, "f1": 1.0, "epoch": 0}, step=0)
    logger.save()
    for epoch in (1, 2):
        logger.log_metrics({"loss": 12345.0, "epoch": epoch}, step=epoch)
        logger.save()
        assert file.read_text().splitlines()[-1] == f"{epoch},{epoch},12345,"
        logger.log_metrics({"loss": 2.0, "f1": 3.0, "epoch": epoch}, step=epoch)
        logger.save()
        assert file.read_text().splitlines()[-1] == f"{epoch},{epoch},2,3"
    assert file.read_text() == "epoch,step,loss,f1\n0,0,10,1\n1,1,2,3\n2,2,2,3\n"


def test_a_resumed_run_drops_what_it_runs_again(tmp_path: Path) -> None:
    first = RunLogger(tmp_path, "fedseca", "fit")
    for epoch in range(4):
        first.log_metrics({"loss": float(epoch), "epoch": epoch}, step=epoch)
    first.finalize("failed")
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4,")  # cut short by a crash
    second = RunLogger(tmp_path, "fedseca", "fit")
    second.continue_from(2)
    second.log_metrics({"loss": 20.0, "epoch": 2}, step=2)
    second.finalize("success")
    assert read_metrics(tmp_path / "metrics.csv")["loss"] == [(0, 0.0), (1, 1.0), (2, 20.0)]


def test_mean_of_last() -> None:
    series = {"test/f1": [(i, float(i)) for i in range(10)], "train/loss": [(0, 1.0)]}
    assert mean_of_last(series, 5) == {"test/f1": 7.0}


def test_a_run_on_the_cpu_has_no_peak_of_a_gpu() -> None:
    assert peak_gpu_memory(torch.device("cpu")) == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_the_peak_on_a_gpu_is_that_of_what_is_freed_too() -> None:
    device = torch.device("cuda", 0)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    torch.empty(1 << 24, dtype=torch.uint8, device=device)
    assert peak_gpu_memory(device)["peak_gpu_bytes"] >= before + (1 << 24)
