"""What the parser of options refuses, in one sentence with option, rule, value and nearest names."""

from collections.abc import Callable, Sequence
from typing import Literal

import pytest
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn
from torch.optim import Optimizer

from shared.federated.fedavg import FedAvg
from shared.wrong_options import concrete_subclasses, explain


class Shape:
    """What an option names a class of."""


class Circle(Shape):
    def __init__(self, radius: float, filled: bool = False) -> None:
        self.radius = radius


class Group(Shape):
    def __init__(self, first: Shape, number: int = 1) -> None:
        self.first = first


def main(
    size: int = 1,
    seed: int = 1,
    part: Literal["all", "half"] = "all",
    sizes: Sequence[int] = (),
    shape: Shape | None = None,
    shapes: list[Shape] | None = None,
    optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
    weights: dict[str, float] | None = None,
    filled: bool | int | None = None,
) -> None:
    """Nothing."""


@pytest.fixture
def parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--given", type=int, default=0)
    parser.add_function_arguments(main)
    parser.link_arguments("given", "seed")
    return parser


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("more", "options must begin with --, got more"),
        ("--sise 3", "unknown option sise; did you mean size or sizes?"),
        ("--siz 3", "unknown option siz; did you mean size or sizes?"),
        ("--size", "--size must have a value, got none"),
        ("--size x", "--size must be int, got x"),
        ("--size 1.5", "--size must be int, got 1.5"),
        ("--size null", "--size must be int, got null"),
        ("--given x", "--given must be int, got x"),
        ("--part hal", "--part must be all or half, got hal; did you mean half or all?"),
        ("--part x", "--part must be all or half, got x"),
        ("--sizes x", "--sizes must be a list of int, got x"),
        ("--sizes [x]", "--sizes must be a list of int, got x"),
        ("--weights x", "--weights must be a mapping or null, got x"),
        ("--filled x", "--filled must be bool, int or null, got x"),
        ("--shape Cirkle", "--shape must name a class of kind Shape or be null, got Cirkle; did you mean Circle?"),
        ("--shape Square", "--shape must name a class of kind Shape or be null, got Square; choose from Circle, Group"),
        (
            "--shape no.Circle",
            "--shape must name a class of kind Shape or be null, got no.Circle; did you mean Circle?",
        ),
        ("--shape torch.nn.Linear", "got torch.nn.Linear; choose from Circle, Group"),
        (
            "--shape {class_path:\xa03}",
            "--shape must name a class of kind Shape or be null, got {'class_path': 3}; choose from",
        ),
        ("--shape= ", "got ''; choose from Circle, Group"),
        ("--shape Circle", "--shape.radius is required by Circle"),
        ("--shape Circle --shape.radius x", "--shape.radius must be float, got x"),
        ("--shape Circle --shape.radus 1", "--shape.radus is no option of Circle; did you mean radius?"),
        (
            "--shape Group --shape.first Cirkle",
            "--shape.first must name a class of kind Shape, got Cirkle; did you mean",
        ),
        ("--shape Group --shape.first Circle --shape.first.radius x", "--shape.first.radius must be float, got x"),
        ("--shape.help Cirkle", "--shape must name a class of kind Shape or be null, got Cirkle; did you mean Circle?"),
        ("--shapes x", "--shapes must be a list of Shape or null, got x"),
        ("--shapes [{class_path:\xa0Cirkle}]", "must be a list of Shape or null, got Cirkle; did you mean Circle?"),
        ("--optimizer SDG", "must name a class of kind Optimizer or be null, got SDG; did you mean SGD?"),
        ("--optimizer SGD --optimizer.lr x", "--optimizer.lr must be float, got x"),
        ("--optimizer SGD --optimizer.lrr 1", "--optimizer.lrr is no option of SGD; did you mean lr?"),
    ],
)
def test_one_sentence(words: str, told: str, parser: ArgumentParser) -> None:
    with pytest.raises(ArgumentError) as refused:
        parser.parse_args([word.replace("\xa0", " ") for word in words.split(" ")])
    sentence = explain(refused.value, parser)
    assert told in sentence
    assert "\n" not in sentence
    assert not sentence.endswith((";", " "))


def test_the_option_that_was_given_is_named_where_it_fills_another() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--given", type=int | bool, default=0)
    parser.add_argument("--size", type=int)
    parser.link_arguments("given", "size")
    with pytest.raises(ArgumentError) as refused:
        parser.parse_args(["--given", "false"])
    assert explain(refused.value, parser) == "--given must be int, got false"


def test_what_is_required_is_named() -> None:
    def verb(root: str, out: str) -> None:
        """Nothing."""

    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(verb, as_group=False)
    with pytest.raises(ArgumentError) as refused:
        parser.parse_args([])
    assert explain(refused.value, parser) == "--root, --out are required"


def test_classes_that_can_be_built() -> None:
    assert FedAvg in concrete_subclasses(nn.Module)
    assert concrete_subclasses(Shape) == [Circle, Group]
