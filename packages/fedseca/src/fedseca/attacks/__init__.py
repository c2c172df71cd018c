"""What hostile clients do: train on false labels, or replace their upload after seeing everybody's."""

from fedseca.attacks.alie import ALIE
from fedseca.attacks.ipm import IPM
from fedseca.attacks.label_flip import LabelFlip
from fedseca.attacks.no_attack import NoAttack
from fedseca.attacks.sign_flip import SignFlip

__all__ = ["ALIE", "IPM", "LabelFlip", "NoAttack", "SignFlip"]
