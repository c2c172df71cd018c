"""Augmentation of 5-slice windows: sample by sample as the reference has it, or batch by batch in torch."""

from fedsam.augmentation.batch import BatchAugmentation
from fedsam.augmentation.sample import SampleAugmentation, reference_choices
from fedsam.augmentation.training import BatchWise, SampleWise

__all__ = ["BatchAugmentation", "BatchWise", "SampleAugmentation", "SampleWise", "reference_choices"]
