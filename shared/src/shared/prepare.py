"""``COMMAND prepare --preset NAME [--root IN] --out DIR``: published or generated data in the layout that is read.

A preset is a function whose annotated arguments are its options and whose docstring is its help: ``out``, the folder to
write, and where it reads something ``root``. What is written appears whole or not at all, and what is there already is
left alone, so an interrupted preset goes on where it stopped.

Nothing heavy is imported here, so that the list of presets and their help answer at once.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from inspect import getdoc
from pathlib import Path
from typing import TYPE_CHECKING

from shared.commands import nearest, option_value, run_function
from shared.errors import UsageError
from shared.outputs import output_folder

if TYPE_CHECKING:
    import numpy as np

Preset = Callable[..., None]
RECORD = "prepared.json"


def prepare(program: str, presets: Mapping[str, Preset], words: Sequence[str]) -> None:
    """Run the verb: list the presets, or run the one that ``--preset`` names.

    Args:
        program: The command.
        presets: Name to function.
        words: The verb's name, then the options.

    Raises:
        UsageError: The preset is unknown, or its options do not fit.
    """
    name = option_value(words, "--preset")
    if name is None:
        if any(word not in ("-h", "--help") for word in words[1:]):
            raise UsageError(f"--preset must name what to prepare, got none; choose from {', '.join(sorted(presets))}")
        print(overview(program, presets))
        return
    if name not in presets:
        raise UsageError(f"--preset must name what to prepare, got {name!r}; {nearest(name, list(presets))}")
    rest = list(words[1:])
    for position, word in enumerate(rest):
        if word == "--preset":
            del rest[position : position + 2]
            break
        if word.startswith("--preset="):
            del rest[position]
            break
    try:
        run_function(program, presets[name], [f"prepare --preset {name}", *rest])
    except UsageError as error:  # a reader names the option of the training commands, which is the preset's here
        raise UsageError(re.sub(r"^data\.source\.", "--", str(error))) from error


def overview(program: str, presets: Mapping[str, Preset]) -> str:
    """All presets with the first line of their help."""
    width = max(map(len, presets)) + 2
    lines = [f"  {name:<{width}}{(getdoc(preset) or '').splitlines()[0]}" for name, preset in sorted(presets.items())]
    return "\n".join(
        [
            f"usage: {program} prepare --preset NAME [--root IN] --out DIR [options of the preset]",
            "",
            "Bring data into a layout that is read. An interrupted preset goes on with the same command.",
            "",
            "presets:",
            *lines,
            "",
            f"`{program} prepare --preset NAME --help` tells the options of one.",
        ]
    )


def claim(out: str | Path, preset: str, **options: object) -> Path:
    """Make the folder of a preset, and make sure that it is not a mixture of two.

    ``prepared.json`` in it records what decides about its content.

    Args:
        out: The folder.
        preset: Name of the preset.
        options: What decides about the content.

    Raises:
        UsageError: The folder was begun with another preset or other options, or holds files of another origin.
    """
    folder = Path(out).expanduser()
    record = json.loads(json.dumps({"preset": preset, "options": options}))
    file = folder / RECORD
    if file.exists():
        if json.loads(file.read_text(encoding="utf-8")) != record:
            raise UsageError(
                f"--out must be a new folder, or one of the same preset and options, got {out}: see {file}"
            )
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--out must be a new or empty folder, got {out}")
    output_folder(out)
    write_text(file, json.dumps(record, indent=2) + "\n")
    return folder


def write_text(path: Path, text: str) -> None:
    """Write a file: under another name first, then renamed."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_images(paths: Sequence[Path], pixels: Callable[[int], "np.ndarray"], label: str, **options: object) -> int:
    """Write the pictures that are not there yet, with a progress bar.

    Args:
        paths: Their files, whose suffixes tell the formats; folders are made.
        pixels: ``(H, W)``, ``(H, W, 1)`` or ``(H, W, 3)`` uint8 of the picture at a position; called from one thread.
        label: What the bar says.
        options: For the encoder, such as ``quality``.

    Returns:
        How many were written.
    """
    from PIL import Image
    from tqdm import tqdm

    for folder in dict.fromkeys(path.parent for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
    missing = [position for position, path in enumerate(paths) if not path.is_file()]
    formats = Image.registered_extensions()
    for position in tqdm(missing, desc=label, unit="image", initial=0, disable=None):
        array = pixels(position)
        picture = Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)
        path = paths[position]
        temporary = path.with_name(path.name + ".tmp")
        picture.save(temporary, format=formats[path.suffix.lower()], **options)
        temporary.replace(path)
    return len(missing)


def write_npz(path: Path, **arrays: "np.ndarray") -> None:
    """Write a compressed archive, unless it is there already."""
    import numpy as np

    if path.is_file():
        return
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    temporary.replace(path)
