"""The ``fedsam`` command."""

from collections.abc import Sequence

from shared.commands import Program, Verb

PROGRAM = Program(
    name="fedsam",
    summary="hospitals adapt SAM to 3D segmentation together without sharing scans (FLAP-SAM and its relatives)",
    verbs=(
        Verb("fit", "Fine-tune: all sites together, each alone, or centralised.", "fedsam.training:run"),
        Verb("validate", "Score a checkpoint on the validation volumes.", "fedsam.training:run"),
        Verb("test", "Score a checkpoint on the test volumes.", "fedsam.training:run"),
        Verb("predict", "Segment test volumes or any scans: label volumes and pictures.", "fedsam.predict:run"),
        Verb("describe", "Components, parameters and traffic of a run; trains nothing.", "fedsam.describe:run"),
        Verb("prepare", "Write embedded and published data as NIfTI files.", "fedsam.prepare:run"),
        Verb(
            "export",
            "A trained model as one file to pass on: whole, adapters alone, or for stock SAM.",
            "fedsam.export_verb:run",
        ),
        Verb("sweep", "Variants against regimes over seeds; resumable.", "fedsam.sweep:run"),
    ),
    examples=(
        "fedsam fit                                     # three sites, brain masks of virtual relatives of a real head",
        "fedsam fit --model.variant lora_decoder --model.regime local",
        "fedsam fit --ckpt_path last                    # go on where the last run stopped",
        "fedsam predict --scans scan.nii.gz --out masks # segment a scan with the newest checkpoint",
        "fedsam describe --config flap_kits             # what the paper's run would send, before you have its data",
        "fedsam fit --model.help                        # options of the model; --data.source.help Decathlon",
    ),
)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    PROGRAM.main(args)
