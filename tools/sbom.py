"""Software bill of materials (CycloneDX 1.6, JSON): the package with everything that it needs on
this machine, versions and licences included.

    python tools/sbom.py [--extra cuda] [--output dist/sbom.json]

Reads the metadata of installed distributions. What only tests and checks need is left out.
"""

import argparse
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = "semantic-trio"


def needed(name: str, extras: Iterable[str] = ()) -> dict[str, metadata.Distribution]:
    """Return a distribution and all that it needs here, by name.

    What markers exclude is left out, and so is what is not installed.
    """
    found: dict[str, metadata.Distribution] = {}
    waiting = [(name, frozenset(extras))]
    seen = set(waiting)
    while waiting:
        current, wanted = waiting.pop()
        try:
            found[canonicalize_name(current)] = distribution = metadata.distribution(current)
        except metadata.PackageNotFoundError:
            continue
        for text in distribution.requires or ():
            requirement = Requirement(text)
            applies = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in (wanted or {""})
            )
            step = (requirement.name, frozenset(requirement.extras))
            if applies and step not in seen:
                seen.add(step)
                waiting.append(step)
    return found


def licence(distribution: metadata.Distribution) -> str:
    """Return the licence that a distribution states: an SPDX expression, a name, or the last part
    of its classifier.
    """
    fields = distribution.metadata
    texts: list[str] = [
        *(fields.get_all("License-Expression") or ()),
        *(fields.get_all("License") or ()),
    ]
    for stated in texts:
        if stated.strip() and "\n" not in stated.strip() and stated != "UNKNOWN":
            return stated.strip()
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in fields.get_all("Classifier") or ()
        if line.startswith("License ::")
    ]
    return classifiers[0] if classifiers else ""


def component(name: str, distribution: metadata.Distribution) -> Component:
    """Describe a distribution."""
    stated = licence(distribution)
    return Component(
        name=name,
        version=distribution.version,
        type=ComponentType.APPLICATION if name == PACKAGE else ComponentType.LIBRARY,
        purl=PackageURL("pypi", name=name, version=distribution.version),
        bom_ref=f"{name}=={distribution.version}",
        licenses=[LicenseFactory().make_from_string(stated)] if stated else (),
    )


def bill(extras: Iterable[str] = ()) -> str:
    """Return the bill of materials as JSON."""
    distributions = needed(PACKAGE, extras)
    bom = Bom()
    bom.metadata.component = root = component(PACKAGE, distributions.pop(PACKAGE))
    parts = [component(name, distribution) for name, distribution in sorted(distributions.items())]
    for part in parts:
        bom.components.add(part)
    bom.register_dependency(root, parts)
    return JsonV1Dot6(bom).output_as_string(indent=1)


def main() -> None:
    """Write the bill."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--extra", action="append", default=[], help="an extra of the package; may be repeated"
    )
    parser.add_argument("--output", type=Path, default=Path("dist/sbom.json"))
    arguments = parser.parse_args()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(bill(arguments.extra))
    print(arguments.output)


if __name__ == "__main__":
    main()
