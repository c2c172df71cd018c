from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from shared.errors import UsageError
from usssl.frame_index import Sampling, frame_index
from usssl.sources.clips import ArrayReader, Clip


def _clips(*lengths: int) -> list[Clip]:
    reader = ArrayReader({str(n): np.zeros((length, 8, 8), np.uint8) for n, length in enumerate(lengths)})
    return [Clip(str(n), "", length, reader, key=str(n)) for n, length in enumerate(lengths)]


@pytest.mark.parametrize(("skip", "counts"), [(5, [5, 1, 1, 8]), (1, [23, 5, 1, 40]), (10, [3, 1, 1, 4])])
def test_frames_of_the_specification(skip: int, counts: list[int]) -> None:
    index = frame_index(_clips(23, 5, 1, 40), Sampling(frame_skip=skip), 0)
    assert np.bincount(index[:, 0]).tolist() == counts
    assert (index[:, 1] % skip == 0).all()


def test_a_clip_may_be_limited_evenly_or_at_random() -> None:
    clips = _clips(100, 3)
    even = frame_index(clips, Sampling(frame_skip=1, frames_per_video=4), 0)
    assert even.tolist() == [[0, 12], [0, 37], [0, 62], [0, 87], [1, 0], [1, 1], [1, 2]]
    drawn = Sampling(frame_skip=1, frames_per_video=4, choice="random")
    assert frame_index(clips, drawn, 1).tolist() != frame_index(clips, drawn, 2).tolist()
    # What a clip gives does not depend on the clips before it... only on its number.
    assert frame_index(clips[:1], drawn, 1).tolist() == frame_index(clips, drawn, 1)[:4].tolist()


def test_videos_and_frames_may_be_limited() -> None:
    clips = _clips(*[10] * 8)
    index = frame_index(clips, Sampling(frame_skip=1, max_videos=3), 5)
    assert len(np.unique(index[:, 0])) == 3
    assert len(index) == 30
    few = frame_index(clips, Sampling(frame_skip=1, max_frames=7), 5)
    assert len(few) == 7
    assert few.tolist() == sorted(few.tolist())


def test_near_identical_frames_are_dropped() -> None:
    frames = np.full((6, 40, 40), 100, np.uint8)
    frames[2:] += 1
    frames[4:] += 30
    clip = Clip("a", "", 6, ArrayReader({"": frames}))
    assert frame_index([clip], Sampling(frame_skip=1, dedup=5), 0)[:, 1].tolist() == [0, 4]
    assert frame_index([clip], Sampling(frame_skip=1, dedup=0.5), 0)[:, 1].tolist() == [0, 2, 4]


@pytest.mark.parametrize(
    "options",
    [
        *({"frame_skip": 0}, {"max_videos": 0}, {"dedup": -1.0}, {"choice": "first"}),
        *({"share": 0.0}, {"share_of": "frame"}, {"total": 9, "dedup": 1.0}),
    ],
)
def test_rules_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=r"data\.sampling\."):
        Sampling(**options)  # type: ignore[arg-type]


def _recorded(lengths: list[int], per_patient: int = 2) -> list[Clip]:
    return [replace(clip, patient=f"p{n // per_patient}") for n, clip in enumerate(_clips(*lengths))]


@pytest.mark.parametrize("unit", ["video", "patient"])
def test_smaller_shares_lie_in_larger_ones(unit: str) -> None:
    clips = _recorded([3] * 20)
    chosen = [
        set(frame_index(clips, Sampling(share=share, share_of=unit), 4)[:, 0].tolist())  # type: ignore[arg-type]
        for share in (5, 10, 25, 50, 100)
    ]
    whole = [1, 2, 5, 10, 20] if unit == "video" else [2, 2, 6, 10, 20]
    assert [len(videos) for videos in chosen] == whole
    assert all(smaller <= larger for smaller, larger in pairwise(chosen))
    if unit == "patient":
        assert all(video ^ 1 in videos for videos in chosen for video in videos)
    unknown = [*clips, *_clips(4)]
    with pytest.raises(UsageError, match="share_of must be video where patients are unknown, got patient and "):
        frame_index(unknown, Sampling(share=50, share_of="patient"), 0)


def test_a_number_of_frames_may_be_asked_for() -> None:
    lengths = [23, 5, 1, 40]
    for total in (4, 9, 15, 17, 50, 69):
        index = frame_index(_clips(*lengths), Sampling(total=total), 0)
        assert len(index) == total
        # No larger skip would do.
        fitting = [skip for skip in range(1, 41) if sum(-(-n // skip) for n in lengths) >= total]
        assert (index[:, 1] % max(fitting) == 0).all()
    with pytest.raises(UsageError, match=r"total must be at most the number of frames \(69\), got 70"):
        frame_index(_clips(*lengths), Sampling(total=70), 0)
    with pytest.raises(UsageError, match="cannot be combined"):
        Sampling(total=3, dedup=1.0)
