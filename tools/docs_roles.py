r"""Docstrings as web pages show them: Sphinx's roles become code and links, formulas become MathML.

MathML needs no script, so pages with formulas load nothing from elsewhere.
"""

import re
from typing import Any

import griffe
from latex2mathml.converter import convert

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)([\w.]+)`")
INLINE = re.compile(r":math:`([^`]+)`")
EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
BLOCK = re.compile(r"^( *)\.\. math:: (.+(?:\n\1 {4,}\S.*)*)", re.MULTILINE)


def as_markdown(text: str) -> str:
    r"""A docstring with Sphinx's roles and formulas as Markdown and HTML.

    Example:
        >>> as_markdown("see :meth:`setup` and :func:`~shared.commands.nearest`")
        'see `setup` and <autoref identifier="shared.commands.nearest" optional><code>nearest</code></autoref>'
    """
    text = EXAMPLE.sub(r"\1Examples:", text)  # the section that griffe knows to hold code
    text = BLOCK.sub(lambda match: match[1] + formula(match[2], "block"), text)
    text = INLINE.sub(lambda match: formula(match[1], "inline"), text)
    return ROLE.sub(lambda match: reference(match[2], short=bool(match[1]) or "." not in match[2]), text)


def formula(latex: str, display: str) -> str:
    """LaTeX as MathML on one line, so that Markdown takes it for a piece of its paragraph."""
    return convert(" ".join(latex.split()), display=display)


def reference(name: str, short: bool) -> str:
    """A name as code, and as a link where the pages document it."""
    shown = name.rsplit(".", 1)[-1] if short else name
    return f'<autoref identifier="{name}" optional><code>{shown}</code></autoref>' if "." in name else f"`{name}`"


class Roles(griffe.Extension):
    """Rewrites every docstring once it is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called by griffe for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
