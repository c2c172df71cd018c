"""Grey matter in virtual relatives of the ICBM 152 average brain."""

from functools import partial
from typing import Any

from fedsam.mini_ixi import VirtualHeads
from fedsam.virtual_subjects import shipped_template

MINI_TISSUE_FILE = "samples/mini_tissue.npz"
MINI_TISSUE_SHA256 = "020ea8de7c3b165bcf93abd67c8d510a79c97408c98602a7a792cac586e4af70"


class MiniTissue(VirtualHeads):
    """T1 without skull to grey matter, on the three sites of :class:`fedsam.mini_ixi.MiniIxi`.

    The template is the symmetric ICBM 152 average of 2009 at 2 mm (82 x 100 x 84); grey matter is where its
    probability exceeds 127/255. An average of many people, so even the undeformed head (case ``icbm152``) is derived.
    It is a clean picture in which one intensity window already reaches a Dice of 0.964; the sites' fields and
    noise make it harder.

    Args:
        **subjects: ``train``, ``validation``, ``test`` and ``seed`` of :class:`fedsam.mini_ixi.VirtualHeads`.
    """

    def __init__(self, **subjects: Any) -> None:
        template = partial(shipped_template, MINI_TISSUE_FILE, MINI_TISSUE_SHA256)
        super().__init__("mini-tissue", "grey matter", template, ("icbm152", "derived"), **subjects)
