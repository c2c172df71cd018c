"""The package without Flower: nothing but `fedseca.flower` misses it, and that says what to install."""

import subprocess
import sys

WITHOUT_FLOWER = """
import sys
sys.modules["flwr"] = None
import fedseca.aggregators, fedseca.cli
try:
    import fedseca.flower
except ImportError as error:
    print(error)
"""


def test_the_strategy_alone_needs_flower() -> None:
    told = subprocess.run([sys.executable, "-c", WITHOUT_FLOWER], check=True, capture_output=True, text=True)
    assert told.stdout == "fedseca.flower needs Flower, version 1.41 or newer (pip install fedseca[flower])\n"
