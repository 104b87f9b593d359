"""The bill of materials is a valid CycloneDX 1.6 document of what the package needs, and of nothing
else.
"""

import json
from importlib import metadata

import pytest

pytest.importorskip("cyclonedx", reason="needs the extra dev")

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tools.sbom import bill, needed


def test_the_bill_is_valid_and_has_what_is_needed_with_its_version() -> None:
    text = bill()
    document = json.loads(text)
    versions = {part["name"]: part["version"] for part in document["components"]}

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert document["specVersion"] == "1.6"
    assert document["metadata"]["component"]["name"] == "semantic-trio"
    assert versions["trio"] == metadata.version("trio")
    assert "markupsafe" in versions, "a package that another one needs"
    assert not {"pytest", "ruff", "mypy"} & versions.keys()


def test_an_extra_adds_what_it_needs() -> None:
    pytest.importorskip("pg8000", reason="needs the extra postgres")

    assert "pg8000" not in needed("semantic-trio")
    assert "pg8000" in needed("semantic-trio", ["postgres"])
