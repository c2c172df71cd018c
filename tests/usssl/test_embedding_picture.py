import numpy as np
import pytest
import torch

from shared.errors import UsageError
from usssl.embedding_picture import embedding_picture, principal_components


def test_components_are_those_of_the_singular_value_decomposition() -> None:
    features = torch.randn(20, 7, dtype=torch.float64) * torch.arange(1, 8)
    points, shares = principal_components(features)
    centred = (features - features.mean(0)).numpy()
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(centred @ directions[:2].T), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(shares, values[:2] ** 2 / (values**2).sum())


def test_collapsed_features_are_one_point() -> None:
    points, shares = principal_components(torch.ones(6, 4))
    assert not points.any()
    assert not shares.any()


def test_one_colour_for_each_group() -> None:
    (axes,) = embedding_picture(torch.randn(12, 4), ["b", "a", "a"] * 4).axes
    assert [line.get_label() for line in axes.get_lines()] == ["a", "b"]
    assert sum(len(line.get_xdata()) for line in axes.get_lines()) == 12


def test_a_single_picture_has_no_components() -> None:
    with pytest.raises(UsageError, match="at least two"):
        principal_components(torch.ones(1, 4))
