"""The front door of every command: answers what needs no heavy library, turns errors into one sentence.

Nothing here imports torch or lightning, so ``COMMAND``, ``--help``, ``--version`` and ``configs`` answer at once.
"""

import json
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from errno import EACCES, EEXIST, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM, EROFS
from importlib import import_module
from importlib.resources import files
from inspect import getdoc
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

from shared.errors import RunError, UsageError

CONFIG_FLAGS = ("--config", "-c")
PLACE_FLAGS = ("--out", "--root", "--run.root")
PLACE_ERRORS = (ENOENT, EEXIST, ENOTDIR, EISDIR, EACCES, EPERM, EROFS, ENAMETOOLONG, ELOOP)
"""What the system says about a place that is wrong, not about a disk or a device."""

GOES_ON = {
    "--ckpt_path last goes on from the newest checkpoint, if it came to one": ("fit", "pretrain", "finetune"),
    "the same command goes on": ("sweep", "compare", "study", "encode"),
}
"""What interrupted verbs can do; the others have nothing to go on from."""


@dataclass(frozen=True)
class Verb:
    """One subcommand.

    Args:
        name: What the user types.
        help: One line for the overview.
        run: ``module:function`` that takes the remaining arguments (the verb's name first).
    """

    name: str
    help: str
    run: str


@dataclass(frozen=True)
class Program:
    """A package's command: its name, one sentence about it, its verbs, examples for the overview."""

    name: str
    summary: str
    verbs: tuple[Verb, ...]
    examples: tuple[str, ...] = ()

    def main(self, args: Sequence[str] | None = None) -> None:
        """Run the command; see the module.

        Raises:
            SystemExit: Status 2 after wrong input, 1 after a run that could not go on or a file that the system
                refused, 130 after an interruption.
        """
        words = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in words
        words = [word for word in words if word != "--debug"]
        try:
            self._dispatch(words)
        except (UsageError, RunError) as error:
            if debug:
                traceback.print_exc()
            print(f"{self.name}: {' '.join(str(error).split())}", file=sys.stderr)
            raise SystemExit(1 if isinstance(error, RunError) else 2) from None
        except OSError as error:
            # A full disk, a folder that is not to be written, a file in a folder's place: the system names it.
            if error.errno is None:
                raise
            if debug:
                traceback.print_exc()
            if error.errno in PLACE_ERRORS and (given := option_of_place(words, error.filename)):
                print(f"{self.name}: {' cannot be '.join(given)} ({error.strerror})", file=sys.stderr)
                raise SystemExit(2) from None
            place = "" if error.filename is None else f": {error.filename}"
            print(f"{self.name}: cannot read or write{place} ({error.strerror}); --debug shows where", file=sys.stderr)
            raise SystemExit(1) from None
        except KeyboardInterrupt:
            told = next((f"; {told}" for told, verbs in GOES_ON.items() if words and words[0] in verbs), "")
            print(f"{self.name}: interrupted{told}", file=sys.stderr)
            raise SystemExit(130) from None

    def _dispatch(self, words: list[str]) -> None:
        if not words or words[0] in ("-h", "--help", "help"):
            print(self.overview())
        elif words[0] == "--version":
            print(f"{self.name} {import_module(self.name).__version__}")
        elif words[0] == "configs":
            if words[1:] not in ([], ["-h"], ["--help"]):
                raise UsageError(f"configs takes no options, got {words[1]}")
            print(self.list_configs())
        else:
            verb = {verb.name: verb for verb in self.verbs}.get(words[0])
            if verb is None:
                names = [v.name for v in self.verbs] + ["configs"]
                raise UsageError(f"unknown command {words[0]!r}; {nearest(words[0], names)}")
            for flag in PLACE_FLAGS:
                if option_value(words, flag) == "":
                    raise UsageError(f"{flag} must be a place, got ''")
            module, function = verb.run.split(":")
            run: Callable[[list[str]], None] = getattr(import_module(module), function)
            run(words)

    def overview(self) -> str:
        """The text of ``COMMAND --help``."""
        width = max(len(name) for name in ("configs", "--version", *(verb.name for verb in self.verbs))) + 2
        lines = [f"{self.name}: {self.summary}", "", f"usage: {self.name} COMMAND [options]", "", "commands:"]
        lines += [f"  {verb.name:<{width}}{verb.help}" for verb in self.verbs]
        lines += [f"  {'configs':<{width}}List the shipped configs."]
        lines += ["", "options:", f"  {'--help':<{width}}Help of the program, or of a command after its name."]
        lines += [f"  {'--version':<{width}}Version.", f"  {'--debug':<{width}}Show the traceback of an error."]
        if self.examples:
            lines += ["", "examples:", *(f"  {example}" for example in self.examples)]
        return "\n".join(lines)

    def list_configs(self) -> str:
        """The text of ``COMMAND configs``: each shipped config with the first line of its comment."""
        names = config_names(self.name)
        width = max(map(len, names), default=0) + 2
        lines = []
        for name in names:
            first = config_path(self.name, name).read_text().splitlines()[0]
            lines.append(f"{name:<{width}}{first.removeprefix('#').strip()}")
        return "\n".join(lines)


def run_function(program: str, function: Callable[..., None], words: Sequence[str]) -> None:
    """Run a verb that is a plain function: its annotated arguments are the options, its docstring is the help.

    An option that takes a list also takes one value of it: ``--text "a cat"`` is ``--text '["a cat"]'``.

    Args:
        program: The command.
        function: What to run.
        words: The verb's name, then the options.

    Raises:
        UsageError: An option is unknown or its value does not fit.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    from shared.wrong_options import explain

    about = (getdoc(function) or "").partition("\nArgs:")[0].replace("``", "`")  # the arguments are told one by one
    parser = ArgumentParser(prog=f"{program} {words[0]}", description=about, exit_on_error=False, allow_abbrev=False)
    parser.add_function_arguments(function, as_group=False, fail_untyped=True)
    try:
        options = parser.parse_args(_listed(function, words[1:]))
    except ArgumentError as error:
        raise UsageError(explain(error, parser)) from error
    function(**options.as_dict())


def _listed(function: Callable[..., None], words: Sequence[str]) -> list[str]:
    """The options, single values of those that take a list put into brackets."""
    lists = {
        f"--{name}": get_args(part)[0]
        for name, kind in get_type_hints(function).items()
        for part in (kind, *get_args(kind))  # list[str], or list[str] | None
        if get_origin(part) is list
    }
    result: list[str] = []
    rest = iter(words)
    for word in rest:
        flag, equals, inline = word.partition("=")
        value = None if flag not in lists else inline if equals else next(rest, None)
        if value is None:  # another option, or one without a value, which the parser refuses
            result.append(word)
        elif value.startswith(("[", "-")) or value == "null":
            result += [word] if equals else [word, value]
        else:
            result += [flag, json.dumps([value]) if lists[flag] is str else f"[{value}]"]
    return result


def nearest(word: str, names: Sequence[str], limit: int = 40) -> str:
    """``did you mean …?`` with the closest names, or all of them where none is close and they are at most ``limit``.

    Example:
        >>> nearest("Krumm", ["Krum", "FedAvg"])
        'did you mean Krum?'
        >>> nearest("x", ["Krum", "FedAvg"])
        'choose from FedAvg, Krum'
    """
    folded = {name.lower(): name for name in names}
    close = [folded[match] for match in get_close_matches(word.lower(), list(folded), n=3, cutoff=0.6)]
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"choose from {', '.join(sorted(set(names)))}" if 0 < len(names) <= limit else ""


def config_names(package: str) -> list[str]:
    """Names of the configs that a package ships."""
    folder = files(package) / "configs"
    items = folder.iterdir() if folder.is_dir() else ()
    return sorted(item.name.removesuffix(".yaml") for item in items if item.name.endswith(".yaml"))


def config_path(package: str, name: str) -> Path:
    """Path of a shipped config."""
    return Path(str(files(package) / "configs" / f"{name}.yaml"))


def find_config(package: str, value: str) -> Path:
    """The config that a user means: an existing file, or a shipped config by bare name.

    Raises:
        UsageError: Neither.
    """
    if Path(value).is_file():
        return Path(value)
    if value in config_names(package):
        return config_path(package, value)
    raise UsageError(
        f"--config must be a file or a shipped config, got {value!r}; {nearest(value, config_names(package))}"
    )


def option_value(words: Sequence[str], *flags: str) -> str | None:
    """The last value given to one of ``flags``, as ``--flag value`` or ``--flag=value``.

    Example:
        >>> option_value(["fit", "--run.name", "a", "--run.name=b"], "--run.name")
        'b'
    """
    value = None
    for position, word in enumerate(words):
        flag, _, inline = word.partition("=")
        if flag in flags:
            value = inline if "=" in word else (words[position + 1] if position + 1 < len(words) else None)
    return value


def option_of_place(words: Sequence[str], place: object) -> tuple[str, str] | None:
    """The option, and its value, that names a file or folder, or one above or below it.

    Example:
        >>> option_of_place(["bench", "--out", "a", "--root=b"], "b/c.csv.tmp")
        ('--root', 'b')
    """
    refused = Path(str(place or "").removesuffix(".tmp"))
    for position, word in enumerate(words):
        flag, equals, inline = word.partition("=")
        value = inline if equals else words[position + 1] if position + 1 < len(words) else ""
        on_the_way = value and (refused.is_relative_to(value) or refused in Path(value).parents)
        if flag.startswith("--") and refused.parts and on_the_way:
            return flag, value
    return None


def config_chain(package: str, value: str) -> list[Path]:
    """A config behind those that it builds upon: a line ``# base: NAME`` in its head names another one.

    Raises:
        UsageError: One of them is neither a file nor shipped, or no YAML of options in UTF-8, or they name each other
            in a circle.
    """
    chain = [find_config(package, value)]
    while base := re.search(r"^# base: (\S+)$", _options_in(chain[0]), re.MULTILINE):
        found = find_config(package, base[1])
        if found in chain:
            raise UsageError(f"--config must build upon other configs, got {value!r}, where {base[1]} comes twice")
        chain.insert(0, found)
    return chain


def _options_in(config: Path) -> str:
    """The text of a config that is known to hold options, or nothing."""
    from yaml import YAMLError, safe_load

    try:
        text = config.read_text(encoding="utf-8")
        options = safe_load(text)
    except UnicodeDecodeError as error:
        raise UsageError(f"--config must be a YAML file in UTF-8, got {config} ({error.reason})") from error
    except YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        where = f"line {mark.line + 1}: {problem}" if mark else problem
        raise UsageError(f"--config must be a YAML file of options, got {config} ({where})") from error
    if not isinstance(options, dict | None):
        raise UsageError(f"--config must be a YAML file of options, got {config}, which holds {options}")
    return text


def named_configs(package: str, words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The configs that ``--config`` names, each behind those that it builds upon, and all other words."""
    configs: list[Path] = []
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        flag, equals, inline = word.partition("=")
        value = None if flag not in CONFIG_FLAGS else inline if equals else next(rest, None)
        if value is None:  # another word, or the flag at the very end, which the parser refuses
            others.append(word)
        else:
            configs += config_chain(package, value)
    return configs, others


def with_config_paths(package: str, words: Sequence[str]) -> list[str]:
    """A verb and its options with the paths of all configs in front: the parser lets the later one win, so flags do."""
    configs, (verb, *options) = named_configs(package, words)
    return [verb, *(part for path in configs for part in ("--config", str(path))), *options]
