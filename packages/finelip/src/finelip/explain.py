"""``finelip explain``: which words met which parts of a picture."""

from typing import Literal

from shared.commands import run_function


def run(words: list[str]) -> None:
    """``finelip explain --picture P --text T``."""

    def explain(
        picture: str,
        text: str,
        out: str = "explanation",
        words: list[str] = [],  # noqa: B006  read only; jsonargparse shows it as the default
        kind: Literal["score", "cosine"] = "score",
        count: int = 11,
        weights: str = "last",
        root: str = "runs",
    ) -> None:
        """Draw where in a picture each word of a text was met: OUT/match_maps.png and OUT/report.html.

        ``score`` takes the local score apart without remainder: what each best match adds is dealt to the words and
        patches that its two refined tokens are mixed from. ``cosine`` compares words and patches before refinement, and
        shows what a word has more than the others; it also stands in where words and patches have no part in the score.

        Args:
            picture: The picture.
            text: The text.
            out: Folder to write.
            words: Words to draw; by default those that add most to the score.
            kind: See above.
            count: How many words, where none are named.
            weights: Checkpoint of fit, or any file of a CLIP, Long-CLIP or FineLIP; last is the newest checkpoint.
            root: Folder of all runs.
        """
        from pathlib import Path

        from finelip.match_maps import add_match_maps
        from finelip.sources.pictures import opened
        from finelip.trained import trained_model
        from shared.errors import UsageError
        from shared.report import Report

        if not text.strip():
            raise UsageError("--text must not be empty, got one without a word")
        if count < 1:
            raise UsageError(f"--count must be at least 1, got {count}")
        try:
            seen = opened(Path(picture).expanduser())
        except OSError as error:
            raise UsageError(f"--picture must be a picture that can be read: {error}") from error
        model = trained_model(weights, root).model
        folder = Path(out).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        report = Report("Which words met which patches", Path(picture).name)
        report.section("Text", "The darker a word, the more it adds to the local score.")
        file = add_match_maps(report, model, seen, text, folder / "match_maps.png", words, count, kind)
        print(f"{file}\nreport: {report.write(folder / 'report.html')}")

    run_function("finelip", explain, words)
