"""The way in which an embedding model embeds, from the files that sentence-transformers writes.

Knows two of its files: how vectors are pooled, and what is written before texts. A
model without the first was made to generate.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from semantic_trio.domain.embedding import APPROXIMATE, EmbeddingForm, Pooling

POOLING, PROMPTS = Path("1_Pooling") / "config.json", Path("config_sentence_transformers.json")
# Names under which the prompt of what is searched stands; the first one that is there counts.
DOCUMENT_NAMES = ("document", "passage", "corpus")
NAMES = {
    "pooling_mode_lasttoken": Pooling.LAST,
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_cls_token": Pooling.FIRST,
}


def embedding_form(path: Path) -> EmbeddingForm:
    """Return how a model's vectors are made.

    Never raises: a file that cannot be read is ignored.
    """
    form = _stated(_content(path / POOLING))
    if form.is_approximate:
        return form
    named = _content(path / PROMPTS).get("prompts")
    prompts = named if isinstance(named, dict) else {}
    return attrs.evolve(
        form,
        query_prompt=_first_text(prompts, ("query",)),
        document_prompt=_first_text(prompts, DOCUMENT_NAMES),
    )


def _content(file: Path) -> Mapping[str, object]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _first_text(prompts: Mapping[str, object], names: Sequence[str]) -> str:
    found = next((prompts[name] for name in names if name in prompts), "")
    return found if isinstance(found, str) else ""


def _stated(config: Mapping[str, object]) -> EmbeddingForm:
    """Older files have a switch for each way, newer ones its name."""
    by_name = {pooling.value: pooling for pooling in Pooling} | {
        "lasttoken": Pooling.LAST,
        "cls": Pooling.FIRST,
    }
    named = by_name.get(str(config.get("pooling_mode")))
    switched = next((pooling for name, pooling in NAMES.items() if config.get(name) is True), None)
    pooling = named or switched
    return APPROXIMATE if pooling is None else EmbeddingForm(pooling, is_approximate=False)
