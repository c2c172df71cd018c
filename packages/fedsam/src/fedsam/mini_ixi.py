"""The default data: a real T1 head whose virtual relatives are spread over three sites, brain against the rest."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fedsam.virtual_subjects import Appearance, Template, VirtualSubject, shipped_template, subjects
from fedsam.volumes import Provenance, VolumeSets, VolumeSource
from shared.errors import UsageError

MINI_IXI_FILE = "samples/mini_ixi.npz"
MINI_IXI_SHA256 = "510a258df080249dc05ed4d334e62707f014a2bbf147c9a51d1f959f8034d6de"

SITES = {
    "site-A": Appearance(gamma=1.0, bias=0.10, noise=0.02),
    "site-B": Appearance(gamma=0.75, bias=0.25, noise=0.04),
    "site-C": Appearance(gamma=1.35, bias=0.15, noise=0.03, blur=0.7, every=2),
}


class VirtualHeads(VolumeSource):
    """Virtual subjects of one template at three sites, and the template itself to test on.

    Args:
        name: What the data are called.
        class_name: The foreground.
        template: Gives the head; called when a subject is read.
        original: Name and provenance of the undeformed head.
        train: Training subjects at each site; 249 : 145 : 59 subjects are the proportions of Fed-IXI.
        validation: Validation subjects at each site.
        test: Test subjects at each site, beside the undeformed head, which counts to the first.
        seed: Of everything random.
    """

    def __init__(
        self,
        name: str,
        class_name: str,
        template: Callable[[], Template],
        original: tuple[str, Provenance],
        train: Sequence[int] = (6, 4, 2),
        validation: Sequence[int] = (2, 1, 1),
        test: Sequence[int] = (1, 1, 1),
        seed: int = 73,
    ) -> None:
        for option, counts, least in (("train", train, 1), ("validation", validation, 0), ("test", test, 0)):
            if len(counts) != len(SITES) or min(counts) < least:
                raise UsageError(
                    f"data.source.{option} must be {len(SITES)} numbers, one per site, of at least {least}, "
                    f"got {list(counts)}"
                )
        if seed < 0:
            raise UsageError(f"data.source.seed must be at least 0, got {seed}")
        self.name, self.class_name, self.template, self.original = name, class_name, template, original
        self.counts = {"train": tuple(train), "validation": tuple(validation), "test": tuple(test)}
        self.seed = seed

    def load(self) -> VolumeSets:
        drawn = partial(subjects, sites=SITES, template=self.template, seed=self.seed)
        case, provenance = self.original
        undeformed = VirtualSubject(
            site=next(iter(SITES)),
            case=case,
            provenance=provenance,
            template=self.template,
            look=Appearance(),
            seed=0,
            place=None,
        )
        return VolumeSets(
            name=self.name,
            class_names=("background", self.class_name),
            train=drawn("train", self.counts["train"]),
            validation=drawn("validation", self.counts["validation"]),
            test=[undeformed, *drawn("test", self.counts["test"])],
        )


class MiniIxi(VirtualHeads):
    """The Fed-IXI task on one real head: T1 with skull to brain mask, three sites in IXI's proportions.

    The template is Colin27 at 2 mm (90 x 108 x 90). Training and validation subjects, and one test subject per site,
    are derived from it by random maps and scanner looks; the undeformed head itself (case ``colin27``) is real. All
    come from one person: scores on them show that a model learns, not that it works on somebody new. The best single
    intensity window reaches a Dice of 0.775 on the undeformed head.

    Args:
        **subjects: ``train``, ``validation``, ``test`` and ``seed`` of :class:`VirtualHeads`.
    """

    def __init__(self, **subjects: Any) -> None:
        template = partial(shipped_template, MINI_IXI_FILE, MINI_IXI_SHA256)
        super().__init__("mini-ixi", "brain", template, ("colin27", "real"), **subjects)
