"""``finelip retrieve``: pictures for texts, texts for pictures, and how often the right one is found."""

import shlex
from typing import Any, Literal

from finelip.one_or_several import OneOrSeveral, several
from shared.commands import run_function


def run(words: list[str]) -> None:
    """``finelip retrieve --index DIR [--text T ...] [--picture P ...]``."""

    def retrieve(
        index: str,
        text: OneOrSeveral = [],  # noqa: B006  read only; jsonargparse shows it as the default
        picture: OneOrSeveral = [],  # noqa: B006
        mode: Literal["global", "fused", "rerank"] = "rerank",
        top: int = 10,
        rerank_top: int = 200,
        alpha: float | None = None,
        shown: int = 4,
        weights: str = "last",
        out: str = "retrieval",
        faiss: bool = False,
        root: str = "runs",
    ) -> None:
        """Find the pictures of an index for texts, or its texts for pictures, and write OUT/report.html.

        Without ``--text`` and ``--picture``, an index that knows which text belongs to which picture is searched with
        its own items, and recall and ranks are printed, with what chance would give.

        ``global`` compares one vector of each. ``fused`` adds the match of the sets, for every item of the index.
        ``rerank`` does so for the best ``rerank_top`` by global score alone.

        Args:
            index: Folder that ``finelip index`` wrote.
            text: A text to find pictures for, or a list of them.
            picture: A picture to find texts for, or a list of them.
            mode: See above.
            top: Items to show for each query.
            rerank_top: See above.
            alpha: Weight of the global score in the fused one; by default the model's.
            shown: Queries of each way in the gallery, where the index is searched with its own items.
            weights: The model that made the index; last is the newest checkpoint.
            out: Folder of the report.
            faiss: Let FAISS do the first stage of global and rerank.
            root: Folder of all runs.
        """
        from pathlib import Path

        from finelip.encoding import Encoder, cut_sentence
        from finelip.index import Index
        from finelip.retrieval import check_numbers, evaluate, search, table_of, truth_of, whole
        from finelip.retrieval_page import (
            add_images,
            add_own,
            add_texts,
            images_table,
            jpeg,
            scored_rows,
            short,
            texts_table,
            told_mode,
        )
        from finelip.sources.pictures import opened
        from finelip.trained import trained_model
        from shared.errors import UsageError
        from shared.outputs import output_folder
        from shared.report import Report
        from shared.text_table import text_table

        check_numbers(top, rerank_top, alpha)
        if shown < 0:
            raise UsageError(f"--shown must not be negative, got {shown}")
        asked, shown_files = several(text), several(picture)
        if not all(query.strip() for query in asked):
            raise UsageError("--text must not be empty, got one without a word")
        folder = output_folder(out)
        opened_index = Index(Path(index).expanduser())
        trained = trained_model(weights, root)
        opened_index.require_model(trained.model, trained.path)
        encoder = Encoder(trained.model)
        options: dict[str, Any] = {"mode": mode, "rerank_top": rerank_top, "alpha": alpha}
        told = ", ".join(
            f"{source['name']} (provenance: {source['provenance']})" for source in opened_index.about["sources"]
        )
        report = Report("Retrieval", told)
        if asked:
            found = search(opened_index, trained.model, encoder.texts(asked), top=top, faiss=faiss, **options)
            if encoder.truncated:
                print(cut_sentence(encoder.truncated, trained.model.context_length))
            for query, hits in zip(asked, found, strict=True):
                print(f"{short(query)}\n{text_table(*images_table(opened_index, hits))}\n")
                report.section("Pictures for a text", query)
                add_images(report, opened_index, hits)
        if shown_files:
            try:
                pictures = [opened(Path(file).expanduser()) for file in shown_files]
            except OSError as error:
                raise UsageError(f"--picture must be a picture that can be read: {error}") from error
            found = search(opened_index, trained.model, encoder.images(pictures), top=top, faiss=faiss, **options)
            for file, image, hits in zip(shown_files, pictures, found, strict=True):
                print(f"{file}\n{text_table(*texts_table(opened_index, hits))}\n")
                report.section("Texts for a picture").thumbnails([(jpeg(image), Path(file).name, False)])
                add_texts(report, opened_index, hits)
        if not asked and not shown_files:
            truth = truth_of(opened_index)
            if truth is None:
                raise UsageError(
                    "--text or --picture must be given where the index has no pairs of its own, got neither "
                    f"({opened_index.folder})"
                )
            scored = table_of(truth, evaluate(opened_index, trained.model, truth, **options))
            print(f"{len(truth.images)} pictures, {len(truth.texts)} texts of {told}; {told_mode(options)}")
            print(text_table(["", "score", "measured", "chance"], scored_rows(scored)))
            report.section(
                "Own pairs", f"{len(truth.images)} pictures, {len(truth.texts)} texts; {told_mode(options)}."
            )
            report.table(
                ["way", "score", "measured", "chance"],
                [
                    (line.way, line.title, whole(line.value) if line.chance is None else line.value, line.chance)
                    for line in scored
                ],
                caption="Recall at k and ranks (from 1)",
            )
            add_own(report, opened_index, trained.model, truth, top, shown, options)
        report.section("How to reproduce").code(shlex.join(["finelip", *words]))
        report.facts(
            {"index": str(opened_index.folder), "model": str(trained.path), "fingerprint": opened_index.about["model"]}
        )
        print(f"report: {report.write(folder / 'report.html')}")

    run_function("finelip", retrieve, words)
