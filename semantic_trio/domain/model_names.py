"""Names of models: the ids of those that are served, and the aliases that stand for them.

Knows names alone. Knows nothing of what is loaded.
"""

import attrs

from semantic_trio.domain.errors import InvalidRequestError, ModelNotFoundError

# Names that stand for the main model: clients that insist on a hosted model's name work.
ANY_MODEL, ANY_MODEL_PATTERN = "default", "claude-*"
# The end of an alias that stands for all names which begin like it.
ANYTHING = "*"
# Between the name of a model and that of an adapter.
WITH_ADAPTER = ":"


@attrs.define(eq=False)
class ModelNames:
    """The main model, the others, and aliases.

    An alias that ends with `*` stands for all names that begin like it; the longest such alias
    counts.

    >>> names = ModelNames("large", ("small",), {"claude-haiku*": "small"})
    >>> names.resolve("default"), names.resolve("claude-haiku-5"), names.resolve("claude-opus-5")
    ('large', 'small', 'large')
    """

    main: str
    others: tuple[str, ...] = ()  # beside the main model, from the start on
    aliases: dict[str, str] = attrs.field(factory=dict)  # alias -> id
    _added: list[str] = attrs.field(init=False, factory=list)  # opened by an operator

    @property
    def served(self) -> tuple[str, ...]:
        """Ids of all models that requests may name, the main one first."""
        return tuple(dict.fromkeys((self.main, *self.others, *self._added)))

    def own(self, name: str) -> str:
        """Return the id that an alias stands for; another name is an id."""
        return self.aliases.get(name, name)

    def resolve(self, name: str) -> str:
        """Return the id of a served model. Raises `ModelNotFoundError`."""
        found = name if name in self.served else self._aliased(name)
        if found is None or found not in self.served:
            raise ModelNotFoundError(name, f"served here: {', '.join(self.served)}")
        return found

    def apart(self, name: str) -> tuple[str, str]:
        """Return the model and the adapter that `model:adapter` names.

        The adapter is empty where the whole name is that of a model, or an alias.
        """
        model, _, adapter = name.rpartition(WITH_ADAPTER)
        is_whole = name in self.served or name in self.aliases
        return (model, adapter) if model and adapter and not is_whole else (name, "")

    def add(self, name: str) -> None:
        """Serve a model from now on."""
        if name not in self.served:
            self._added.append(name)

    def become_main(self, name: str) -> None:
        """Make a model the main one.

        The one from before is served on only if it is one of `others`.
        """
        self.main = name
        self._added = [added for added in self._added if added != name]

    def set_alias(self, alias: str, name: str) -> None:
        """Have an alias stand for a served model.

        Raises `ModelNotFoundError`, and `InvalidRequestError` for the id of a model or an empty
        alias.
        """
        found = self.resolve(name)
        if not alias.strip(ANYTHING) or alias in self.served:
            raise InvalidRequestError(
                (
                    f"{alias or 'an empty name'} cannot be an alias: it is the id of a model, or "
                    "no name"
                ),
                "alias",
            )
        self.aliases[alias] = found

    def remove_alias(self, alias: str) -> None:
        """Remove an alias. Raises `ModelNotFoundError` if there is none of this name."""
        if self.aliases.pop(alias, None) is None:
            raise ModelNotFoundError(alias, f"aliases: {', '.join(self.aliases) or 'none'}")

    def _aliased(self, name: str) -> str | None:
        if name in self.aliases:
            return self.aliases[name]
        patterns = [*self.aliases, ANY_MODEL_PATTERN]
        fitting = [
            one
            for one in patterns
            if one.endswith(ANYTHING) and name.startswith(one.removesuffix(ANYTHING))
        ]
        if fitting:
            return self.aliases.get(max(fitting, key=len), self.main)
        return self.main if name == ANY_MODEL else None
