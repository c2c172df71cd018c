"""Options that take one value or a list of them."""

OneOrSeveral = list[str] | str
"""``--text "a cat"`` and ``--text '["a cat", "a dog"]'``."""


def several(value: OneOrSeveral) -> list[str]:
    """The values.

    Example:
        >>> several("a cat, a dog"), several(["a", "b"])
        (['a cat, a dog'], ['a', 'b'])
    """
    return [value] if isinstance(value, str) else list(value)
