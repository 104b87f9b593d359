"""JSON schemas as clients send them, drawn by Hypothesis; what has one of the bounded ones ends
soon.
"""

from hypothesis import strategies as st

Schema = dict[str, object]

NAMES = st.sampled_from(("name", "id", "tags", "is done", "größe", 'quo"te', "a"))
WORDS = st.sampled_from(("red", "green", "dark blue", "ü", '"', ""))


def _object(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    def made(properties: dict[str, Schema], count: int) -> Schema:
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties)[:count],
            "additionalProperties": False,
        }

    return st.builds(made, st.dictionaries(NAMES, inner, max_size=3), st.integers(0, 3))


def _array(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    def made(items: Schema, least: int, more: int) -> Schema:
        return {"type": "array", "items": items, "minItems": least, "maxItems": least + more}

    return st.builds(made, inner, st.integers(0, 1), st.integers(0, 1))


def _within(least: int, more: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": least + more}


_leaves: st.SearchStrategy[Schema] = st.one_of(
    st.sampled_from(
        [
            {"type": "boolean"},
            {"type": "null"},
            {"type": ["boolean", "null"]},
            {"const": 7},
            {"type": "string", "pattern": "^[a-c]{1,4}$"},
        ]
    ),
    st.builds(_within, st.integers(-100, 100), st.integers(0, 1000)),
    st.builds(
        lambda words: {"enum": words},
        st.lists(WORDS | st.integers(0, 9) | st.none(), min_size=1, max_size=3, unique=True),
    ),
    st.builds(lambda most: {"type": "string", "maxLength": most}, st.integers(0, 6)),
)


def _either(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return st.builds(lambda *both: {"anyOf": list(both)}, inner, inner)


_nested = st.recursive(
    _leaves, lambda inner: _object(inner) | _array(inner) | _either(inner), max_leaves=4
)
# Of an object, as arguments are; what fits one of these takes a hundred tokens or two.
bounded_objects = _object(_nested)
# Anything a whole answer may be.
bounded = _nested | bounded_objects
