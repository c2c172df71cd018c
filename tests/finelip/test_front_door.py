"""What answers without torch."""

import subprocess
import sys

import pytest

from finelip.cli import main

WITHOUT_TORCH = """
import sys
from finelip.cli import main

for words in ([], ["--help"], ["--version"], ["configs"]):
    main(words)
heavy = {"torch", "lightning", "open_clip", "transformers"} & set(sys.modules)
assert not heavy, heavy
"""


def test_the_front_door_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "finelip: CLIP that reads 248 tokens" in done.stdout
    assert "finelip 0.1.0" in done.stdout


def test_an_unknown_verb_is_refused_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fitt"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("finelip: unknown command 'fitt'")
