from collections.abc import Callable
from dataclasses import replace

import pytest

from fedsam.volumes import Case, VolumeSets
from shared.errors import UsageError


def test_patients_in_more_than_one_split_are_named(blank: Callable[..., Case]) -> None:
    def sets(train: list[Case], validation: list[Case], test: list[Case]) -> VolumeSets:
        return VolumeSets("scans", ("background", "block"), train=train, validation=validation, test=test)

    def case(name: str, patient: str | None = None, site: str = "a") -> Case:
        return replace(blank(site), case=name, patient=patient)

    with pytest.raises(
        UsageError,
        match=r"no patient may be in more than one of train, validation and test, "
        r"scans has p of a \(train and test\), two of b \(train and validation\)$",
    ):
        sets([case("one", "p"), case("two", site="b")], [case("two", site="b")], [case("three", "p")])
    with pytest.raises(UsageError, match=r"0 of a \(train and test\), 1 of a .*, 2 of a .* and 2 more$"):
        sets([case(f"x{i}", str(i)) for i in range(5)], [], [case(f"y{i}", str(i)) for i in range(5)])
    with pytest.raises(UsageError, match=r"every case must be listed once, scans lists one of a twice"):
        sets([case("one"), case("one")], [], [])
    # The same name at another site is somebody else.
    assert len(sets([case("one"), case("one", site="b")], [], [case("two")]).train) == 2
