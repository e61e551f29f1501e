"""Prints what an installation holds as CycloneDX 1.6: `python sbom.py REQUIREMENTS.LOCK SITE_PACKAGES`.

Each package has its version, licence and the SHA-256 hashes of the lock file, one of which its file had. Debian's own
packages are in the image's dpkg database, which scanners read. Standard library only.
"""

import json
import re
import sys
import uuid
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

PRODUCT = "eagerly"


def main(lock: Path, site_packages: Path) -> None:
    """Prints the list."""
    print(json.dumps(bill(locked(lock.read_text()), site_packages), indent=1))


def bill(hashes: dict[str, list[str]], site_packages: Path) -> dict[str, Any]:
    """Lists what is installed in a folder; its serial number follows from what is in it."""
    found = sorted(distributions(path=[str(site_packages)]), key=lambda one: _name(one))
    parts = [_component(one, hashes.get(_name(one), [])) for one in found if _name(one) != PRODUCT]
    product = next((_component(one, []) for one in found if _name(one) == PRODUCT), None)
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([product, parts]))
    metadata = {"component": {**product, "type": "application"}} if product else {}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": metadata,
        "components": parts,
    }


def locked(text: str) -> dict[str, list[str]]:
    """Reads the SHA-256 hashes of each package from a lock file."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if begins := re.match(r"([A-Za-z0-9._-]+)==", line):
            name = _plain(begins[1])
        found.setdefault(name, []).extend(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
    return found


def _component(one: Distribution, hashes: list[str]) -> dict[str, Any]:
    name, version = _name(one), one.version
    place = f"pkg:pypi/{name}@{version}"
    component: dict[str, Any] = {"type": "library", "bom-ref": place, "name": name, "version": version, "purl": place}
    told: Any = one.metadata
    licence = told.get("License-Expression") or told.get("License") or ""
    if licence and "\n" not in licence and len(licence) < 100:
        component["licenses"] = [{"license": {"name": licence}}]
    if hashes:
        sums = [{"alg": "SHA-256", "content": content} for content in hashes]
        component["externalReferences"] = [{"type": "distribution", "url": place, "hashes": sums}]
    return component


def _name(one: Distribution) -> str:
    return _plain(one.metadata["Name"])


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
