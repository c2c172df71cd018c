"""Handwritten digits of 8 x 8, which come with scikit-learn: a real data set for runs of seconds."""

import numpy as np

from shared.data.labelled_images import LabelledImages
from shared.data.sources import ImageSets, Source
from shared.data.splits import stratified_split
from shared.errors import UsageError

_WHITE = 16  # the brightest stored value
TEST_SHARE = 0.2


class Digits(Source):
    """The 1,797 grey digits inside scikit-learn, a fifth of each class for testing, drawn with seed 0.

    Stored values 0 to 16 become 0 to 255. It needs scikit-learn, ``pip install fedseca[digits]``; nothing is
    downloaded. Source: Alpaydin, Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository,
    1998; scikit-learn ships its test part.
    """

    class_names = tuple("0123456789")
    stored_channels = 1

    def load(self) -> ImageSets:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise UsageError(
                "data.source Digits needs scikit-learn (pip install fedseca[digits]), found none"
            ) from error
        digits = load_digits()
        images = np.rint(digits.images * (255 / _WHITE)).astype(np.uint8)
        rest, held = stratified_split(digits.target, TEST_SHARE, np.random.default_rng(0))
        train, test = (
            LabelledImages(images[rows], digits.target[rows], self.class_names, name=f"digits {part}")
            for part, rows in (("train", rest), ("test", held))
        )
        return ImageSets(train, test)
