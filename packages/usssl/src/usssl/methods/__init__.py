"""The methods; each is a module with a loss of its own."""

from usssl.methods.autoencoder import Autoencoder, Denoise, Inpaint
from usssl.methods.barlowtwins import BarlowTwins
from usssl.methods.barlowtwins_supcon import BarlowTwinsSupCon
from usssl.methods.byol import BYOL
from usssl.methods.method import Method
from usssl.methods.moco import MoCo
from usssl.methods.simclr import SimCLR
from usssl.methods.vicreg import VICReg

METHODS: dict[str, type[Method]] = {
    "autoencoder": Autoencoder,
    "inpaint": Inpaint,
    "simclr": SimCLR,
    "moco": MoCo,
    "byol": BYOL,
    "vicreg": VICReg,
    "barlowtwins": BarlowTwins,
    "barlowtwins_supcon": BarlowTwinsSupCon,
    "denoise": Denoise,
}
"""The seven methods of the paper, then the two extras, by the names that tables and configs use."""
