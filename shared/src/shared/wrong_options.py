"""What the parser of options says about wrong ones, in one sentence.

jsonargparse tells where it was by nested messages, and lists every type that it tried. Here the place is read off the
message, and the rule off the types of the options themselves. Its private names that this needs (the actions of a
parser and their types) are used here alone; ``tests/shared/test_wrong_options.py`` fails loudly if one of them moves.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from pydoc import locate
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse._link_arguments import ActionLink

from shared.commands import nearest


def explain(error: ArgumentError, parser: ArgumentParser) -> str:
    """One sentence that names the option, the rule, the value and the nearest valid names."""
    text = str(error)
    types = _types_of(parser)
    if word := re.search(r"unrecognized arguments: ([^-\s]\S*)", text):
        return f"options must begin with --, got {word[1]}"
    # With a parser key the unknown option is one of a class, which is told further below; here it is of a group.
    outside = "" if 'Parser key "' in text else r"|Option '([^']+)' is not accepted"
    if unknown := re.search(rf"does not accept option '([^']+)'|unrecognized arguments: --?([^\s=]+){outside}", text):
        name = next(name for name in unknown.groups() if name)
        known = [option for option in types if "help" not in option and not option.startswith("print_")]
        return f"unknown option {name}; {nearest(name, known, limit=20)}".rstrip("; ")
    if linked := re.search(r'Linked "([^"]+)" must be given via "([^"]+)"', text):
        return f"--{linked[1]} cannot be given, it follows from {linked[2]}"
    if bare := re.search(r"argument (?:\S*/)?(--[^\s:]+): expected", text):
        return f"{bare[1]} must have a value, got none"
    # The message nests as the options do: each level names a key, and a class where the value is one.
    keys = [key for key, _ in groupby(re.findall(r'Parser key "([^"]+)"', text))]
    if asked := re.match(r"--(\S+)\.help: ", text):
        keys = [asked[1]]
    owners = re.findall(r"(?:given class_path |value: Namespace\(class_path=)'([^']+)'", text)
    key = ".".join(keys)
    flag = f"--{_sources_of_links(parser).get(key, key)}"
    if "Unable to load config" in text:
        return f"{flag} must be a YAML file of options, got {_value(text)}"
    if owners and (refused := re.search(r"Option '([^']+)' is not accepted", text)):
        # Of a constructor with **options the parser finds out what these may be.
        near = nearest(refused[1], list(_types_of_class(owners[-1]))) or "it has none"
        return f"{flag}.{refused[1]} is no option of {_short(owners[-1])}; {near}"
    if required := re.search(r"the following arguments are required: (.+)", text):
        prefix, whose = (f"{flag}.", f" by {_short(owners[-1])}") if key else ("--", "")
        names = [f"{prefix}{name.strip()}" for name in required[1].split(",")]
        return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} required{whose}"
    hint = types.get(key)
    if len(keys) > 1 and len(owners) >= len(keys) - 1:
        hint = _types_of_class(owners[len(keys) - 2]).get(keys[-1])
    value = owners[-1] if owners and re.search(r"No module named|has no attribute", text) else _value(text)
    if hint is not None and value is not None:
        return f"{flag} {_rule(hint)}, got {value}; {_near(hint, value)}".rstrip("; ")
    text = " ".join(text.split())
    if text.startswith("Unexpected config:"):
        given = text.removeprefix("Unexpected config:").strip() or "an empty one"
        return f"--config must be a YAML file of options, got {given}"
    if text.startswith("Problems parsing config"):
        return text.replace("Problems parsing config", "--config must be a YAML file of options", 1)
    if hint is not None:  # a number or a list where the name of a class should be, say
        why = re.split(r'Parser key "[^"]+": ?', text)[-1]
        return f"{flag} {_rule(hint)} ({why})"
    return f"{flag}: {text}" if key else text


def _value(text: str) -> str | None:
    """The value that was refused, innermost and as YAML writes it."""
    found = re.search(
        r"dot import path string: (.*)|Import path (\S+) does not|(?:Got|Given) value: (.*)|load config '(.*)'", text
    )
    if found is None:
        return None
    value = next(group for group in found.groups() if group is not None).split(". Got value: ")[0].strip()
    if named := re.match(r"Namespace\(class_path='(.*?)'", value):
        return named[1]
    return {"None": "null", "True": "true", "False": "false", "": "''"}.get(value, value)


def _short(path: str) -> str:
    return path.rsplit(".", 1)[-1]


def _types_of(parser: ArgumentParser) -> dict[str, Any]:
    """The options of a parser and their types, those that links fill among them; ``None`` where it has none."""
    given = {action.dest: action for action in parser._actions if not isinstance(action, ActionLink)}
    filled = {action.target[0]: action.target[1] for action in _links(parser)}
    return {name: getattr(action, "_typehint", None) for name, action in (given | filled).items()}


def _sources_of_links(parser: ArgumentParser) -> dict[str, str]:
    """The options that another one fills, to that one, which is what a user gives."""
    return {action.target[0]: action.source[0][0] for action in _links(parser)}


def _links(parser: ArgumentParser) -> list[Any]:
    return [action for action in parser._actions if isinstance(action, ActionLink)]


def _types_of_class(path: str) -> dict[str, Any]:
    """The options that a class takes and their types."""
    parser = ArgumentParser(add_help=False)
    parser.add_class_arguments(locate(path), fail_untyped=False)
    return {name: kind for name, kind in _types_of(parser).items() if "." not in name}


def _parts(hint: Any) -> Iterator[Any]:
    """What a value may be: the members of a union, and of a factory what it makes."""
    if get_origin(hint) in (Union, UnionType):
        for part in get_args(hint):
            yield from _parts(part)
    elif get_origin(hint) is Callable:
        yield from _parts(get_args(hint)[-1])
    elif getattr(hint, "__name__", "") != "Tensor":  # which no word on a command line is
        yield hint


def _rule(hint: Any) -> str:
    """What a value must be.

    Example:
        >>> _rule(int | list[str] | None)
        'must be int, a list of str or null'
        >>> _rule(Literal["equal", "samples"])
        'must be equal or samples'
    """
    kinds: list[str] = []
    classes: list[str] = []
    parts = dict.fromkeys(_parts(hint))
    for part in parts:
        if get_origin(part) is Literal:
            kinds += [str(value) for value in get_args(part)]
        elif _is_list(part):
            kinds.append(f"a list of {_either(_name(inner) for of in get_args(part)[:1] for inner in _parts(of))}")
        elif _is_kind(part):
            classes.append(_name(part))
        elif part is not NoneType:
            kinds.append(_name(part))
    null = ["null"] if NoneType in parts else []
    if classes and not kinds:
        return f"must name a class of kind {_either(classes)}{' or be null' if null else ''}"
    return f"must be {_either([*kinds, *([f'a class of kind {_either(classes)}'] if classes else []), *null])}"


def _either(words: Iterable[str]) -> str:
    *before, last = dict.fromkeys(words)
    return f"{', '.join(before)} or {last}" if before else last


def _name(kind: Any) -> str:
    return "a mapping" if (get_origin(kind) or kind) in (dict, Mapping) else getattr(kind, "__name__", str(kind))


def _near(hint: Any, value: str) -> str:
    """The names nearest to a value, all of them where it must name a class and none is near."""
    parts = [part for part in _parts(hint) if part is not NoneType]
    bases = [base for part in parts for base in (get_args(part) if _is_list(part) else (part,))]
    names = [str(value) for part in parts if get_origin(part) is Literal for value in get_args(part)]
    names += [cls.__name__ for base in bases if _is_kind(base) for cls in concrete_subclasses(base) or [base]]
    return nearest(_short(value), names, limit=40 if all(_is_kind(part) for part in parts) else 0)


def _is_list(part: Any) -> bool:
    origin = get_origin(part) or part
    return inspect.isclass(origin) and issubclass(origin, Iterable) and not issubclass(origin, str | Mapping)


def _is_kind(part: Any) -> bool:
    """Whether a value is a class of this kind."""
    return inspect.isclass(part) and not get_args(part) and part.__module__ != "builtins"


def concrete_subclasses(base: type) -> list[type]:
    """All public subclasses that can be built, deepest first where classes inherit from one another."""
    found: dict[type, None] = {}
    child: type
    for child in base.__subclasses__():
        found |= dict.fromkeys(concrete_subclasses(child))
        if not inspect.isabstract(child) and not child.__name__.startswith("_"):
            found[child] = None
    return list(found)
