"""What frames become before a network sees them: the reference's recipes on PIL pictures and on batches of tensors."""

from usssl.augmentation.classifier import ClassifierAugmentation
from usssl.augmentation.recipes import ViewRecipe
from usssl.augmentation.reconstruction import AutoencoderViews, InpaintViews
from usssl.augmentation.two_views import InfomaxCustomViews, InfomaxViews, SimclrViews

__all__ = [
    "AutoencoderViews",
    "ClassifierAugmentation",
    "InfomaxCustomViews",
    "InfomaxViews",
    "InpaintViews",
    "SimclrViews",
    "ViewRecipe",
]
