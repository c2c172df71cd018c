"""``finelip explain``: which words met which parts of a picture."""

from typing import Literal

from finelip.one_or_several import OneOrSeveral, several
from shared.commands import run_function


def run(words: list[str]) -> None:
    """``finelip explain --picture P --text T``."""

    def explain(
        picture: str,
        text: str,
        out: str = "explanation",
        words: OneOrSeveral = [],  # noqa: B006  read only; jsonargparse shows it as the default
        kind: Literal["occlusion", "score", "cosine"] = "occlusion",
        by: Literal["word", "sentence"] = "word",
        count: int = 11,
        weights: str = "last",
        root: str = "runs",
    ) -> None:
        """Draw where in a picture each word of a text was met: OUT/match_maps.png and OUT/report.html.

        ``occlusion`` hides each patch and leaves out each word: a map shows what the two together take from the fused
        score beyond either alone. ``score`` takes the local score apart without remainder: what each best match adds is
        dealt to the words and patches that its two refined tokens are mixed from; trained models often match class and
        end token instead. ``cosine`` compares words and patches before refinement, and shows what a word has more than
        the others.

        Args:
            picture: The picture.
            text: The text.
            out: Folder to write.
            words: A word to draw or a list of them, with ``--by sentence`` the sentences that hold one; by default the
                most telling ones.
            kind: See above.
            by: A map for each word, or for each sentence.
            count: How many, where none are named.
            weights: Checkpoint of fit, or any file of a CLIP, Long-CLIP or FineLIP; last is the newest checkpoint.
            root: Folder of all runs.
        """
        from pathlib import Path

        from finelip.encoding import cut_sentence
        from finelip.match_maps import add_match_maps
        from finelip.matching import words_of
        from finelip.sources.pictures import opened
        from finelip.tokenizer import LongTokenizer, true_lengths
        from finelip.trained import trained_model
        from shared.commands import nearest
        from shared.errors import UsageError
        from shared.outputs import output_folder
        from shared.report import Report

        if not text.strip():
            raise UsageError("--text must not be empty, got one without a word")
        if count < 1:
            raise UsageError(f"--count must be at least 1, got {count}")
        try:
            seen = opened(Path(picture).expanduser())
        except OSError as error:
            raise UsageError(f"--picture must be a picture that can be read: {error}") from error
        folder = output_folder(out)
        model = trained_model(weights, root).model
        report = Report("Which words met which patches", Path(picture).name)
        ids, _, truncated = LongTokenizer(model.context_length)(text)
        if bool(truncated):
            print(cut_sentence(1, model.context_length))
        known = {word.text for word in words_of(ids[0], int(true_lengths(ids)))}
        asked = several(words)
        for word in asked:
            if word.lower() not in known:
                raise UsageError(f"--words must be words of the text, got {word!r}; {nearest(word, sorted(known))}")
        score = "fused" if kind == "occlusion" else "local"
        report.section("Text", f"The darker a {by}, the more it adds to the {score} score.")
        file = add_match_maps(report, model, seen, text, folder / "match_maps.png", asked, count, kind, by)
        print(f"{file}\nreport: {report.write(folder / 'report.html')}")

    run_function("finelip", explain, words)
