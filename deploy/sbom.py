"""Prints what an image holds as CycloneDX 1.6: `python sbom.py REQUIREMENTS.LOCK SITE_PACKAGES DPKG_STATUS`.

Each Python package has its version, licence and the SHA-256 hashes of the lock file, one of which its file had. Each
package of Debian's has the version and architecture of dpkg's database (/var/lib/dpkg/status). Standard library only.
"""

import json
import re
import sys
import uuid
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

PRODUCT = "eagerly"


def main(lock: Path, site_packages: Path, status: Path) -> None:
    """Prints the list."""
    parts = debian(status.read_text(encoding="utf-8"))
    print(json.dumps(bill(locked(lock.read_text()), site_packages, parts), indent=1))


def bill(hashes: dict[str, list[str]], site_packages: Path, others: list[dict[str, Any]]) -> dict[str, Any]:
    """Lists what is installed in a folder, and other components; its serial number follows from what is in it."""
    found = sorted(distributions(path=[str(site_packages)]), key=lambda one: _name(one))
    parts = [_component(one, hashes.get(_name(one), [])) for one in found if _name(one) != PRODUCT] + others
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


def debian(status: str) -> list[dict[str, Any]]:
    """Lists what dpkg's database says is installed, and not what was removed or is half there."""
    found = []
    for paragraph in status.split("\n\n"):
        told = dict(re.findall(r"^([A-Za-z-]+): *(.*)$", paragraph, re.MULTILINE))
        if told.get("Status", "").endswith(" ok installed"):
            name, version, architecture = (told[key] for key in ("Package", "Version", "Architecture"))
            place = f"pkg:deb/debian/{quote(name)}@{quote(version, safe=':')}?arch={architecture}"
            found.append({"type": "library", "bom-ref": place, "name": name, "version": version, "purl": place})
    return sorted(found, key=lambda one: one["purl"])


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
    main(*map(Path, sys.argv[1:4]))
