"""A cache folder of its own for every test, and the phantom drawn once, small."""

from pathlib import Path

import pytest

from usssl.fetal_heart_phantom.source import PhantomPlanes, PhantomVideos


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("xdg")))


@pytest.fixture(scope="session")
def phantom_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("phantom")


@pytest.fixture
def small_videos(phantom_cache: Path) -> PhantomVideos:
    return PhantomVideos(videos=6, patients=4, validation=2, frames=(12, 12), size=64, cache_dir=phantom_cache)


@pytest.fixture
def small_planes(phantom_cache: Path) -> PhantomPlanes:
    return PhantomPlanes(train=60, validation=20, test=40, size=64, cache_dir=phantom_cache)
