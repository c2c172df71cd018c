"""``usssl study``: questions that take more than one run to answer."""

from collections.abc import Callable

from shared.commands import nearest, run_function
from shared.errors import UsageError

HELP = """\
usage: usssl study variance  [options] [-- options of pretrain]
       usssl study retrieval [options] [-- options of pretrain's data]

variance    Is it more frames that help in pretraining, or more different ones?
retrieval   Is a clip found again by another of its frames?

`usssl study NAME --help` prints the options."""


def run(words: list[str]) -> None:
    """``usssl study NAME [options] [-- options of pretrain]``."""
    from usssl.retrieval_study import retrieval
    from usssl.variance_study import variance

    studies: dict[str, Callable[[list[str], list[str]], Callable[..., None]]] = {
        "variance": variance,
        "retrieval": retrieval,
    }
    if len(words) < 2 or words[1] in ("-h", "--help"):
        print(HELP)
        return
    if words[1] not in studies:
        raise UsageError(f"unknown study {words[1]!r}; {nearest(words[1], list(studies))}")
    position = words.index("--") if "--" in words else len(words)
    asked = studies[words[1]](words, words[position + 1 :])
    run_function("usssl", asked, [f"study {words[1]}", *words[2:position]])
