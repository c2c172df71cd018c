"""What hostile clients do: train on false labels, or replace their upload after seeing everybody's."""

from fedseca.attacks.agr_tailored import AGRTailored
from fedseca.attacks.alie import ALIE
from fedseca.attacks.fang import Fang
from fedseca.attacks.ipm import IPM
from fedseca.attacks.label_flip import LabelFlip
from fedseca.attacks.mimic import Mimic
from fedseca.attacks.min_max import MinMax, MinSum
from fedseca.attacks.min_max_released import MinMaxSumReleased
from fedseca.attacks.no_attack import NoAttack
from fedseca.attacks.random_weights import Random
from fedseca.attacks.rop import ROP
from fedseca.attacks.scale import Scale
from fedseca.attacks.sign_flip import SignFlip

__all__ = [
    "ALIE",
    "IPM",
    "ROP",
    "AGRTailored",
    "Fang",
    "LabelFlip",
    "Mimic",
    "MinMax",
    "MinMaxSumReleased",
    "MinSum",
    "NoAttack",
    "Random",
    "Scale",
    "SignFlip",
]
