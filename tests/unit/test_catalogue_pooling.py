"""How a model embeds is read from its directory."""

import json
from pathlib import Path

import pytest

from semantic_trio.adapters.catalogue.pooling import embedding_form
from semantic_trio.domain.embedding import APPROXIMATE, EmbeddingForm, Pooling


def write(directory: Path, content: str) -> Path:
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(content)
    return directory


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        (
            {
                "pooling_mode_cls_token": False,
                "pooling_mode_mean_tokens": False,
                "pooling_mode_lasttoken": True,
            },
            Pooling.LAST,
        ),
        (
            {
                "word_embedding_dimension": 384,
                "pooling_mode_mean_tokens": True,
                "pooling_mode_max_tokens": False,
            },
            Pooling.MEAN,
        ),
        ({"pooling_mode_cls_token": True}, Pooling.FIRST),
        ({"pooling_mode": "lasttoken"}, Pooling.LAST),
        ({"pooling_mode": "mean"}, Pooling.MEAN),
        ({"pooling_mode": "cls"}, Pooling.FIRST),
    ],
)
def test_what_sentence_transformers_writes_is_understood(
    tmp_path: Path, config: dict[str, object], pooling: Pooling
) -> None:
    assert embedding_form(write(tmp_path, json.dumps(config))) == EmbeddingForm(
        pooling, is_approximate=False
    )


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"pooling_mode": 3}', '{"pooling_mode_max_tokens": true}']
)
def test_what_says_nothing_leaves_a_model_that_generates(tmp_path: Path, content: str) -> None:
    assert embedding_form(write(tmp_path, content)) == APPROXIMATE


def test_a_model_without_the_file_was_made_to_generate(tmp_path: Path) -> None:
    assert embedding_form(tmp_path) == EmbeddingForm(Pooling.MEAN, is_approximate=True)


@pytest.mark.parametrize(
    ("prompts", "query", "document"),
    [
        ({"prompts": {"query": "Query: ", "document": ""}}, "Query: ", ""),
        ({"prompts": {"query": "query: ", "passage": "passage: "}}, "query: ", "passage: "),
        ({"prompts": {"corpus": "text: "}}, "", "text: "),
        ({"prompts": {}}, "", ""),
        ({"prompts": None}, "", ""),
        ({"prompts": {"query": 3}}, "", ""),
        ([], "", ""),
    ],
)
def test_what_the_model_expects_before_texts_is_read(
    tmp_path: Path, prompts: object, query: str, document: str
) -> None:
    write(tmp_path, json.dumps({"pooling_mode": "lasttoken"}))
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))

    assert embedding_form(tmp_path) == EmbeddingForm(
        Pooling.LAST, is_approximate=False, query_prompt=query, document_prompt=document
    )
