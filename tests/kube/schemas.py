"""Writes JSON schemas for kubeconform: Kubernetes' own, and those of KubeRay's definitions.

python schemas.py DEFINITIONS OUT
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

VERSION = "v1.37.0-local-strict"


def strict(node: Any) -> Any:
    """Refuses unknown fields wherever the definition does not ask to keep them."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: strict(value) for key, value in node.items()}
    if isinstance(made.get("properties"), dict) and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if made.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


def main(words: list[str]) -> None:
    """Writes a file for each kind."""
    import kubernetes_validate  # type: ignore[import-not-found]

    definitions, out = Path(words[0]), Path(words[1])
    out.mkdir(parents=True)
    for path in (Path(str(kubernetes_validate.__file__)).parent / "kubernetes-json-schema" / VERSION).glob("*.json"):
        schema = json.loads(path.read_text().replace('"/api/_definitions.json', '"_definitions.json'))
        schema.pop("$id", None)  # an address here would be looked up instead of the file
        (out / path.name).write_text(json.dumps(schema))
    for path in definitions.glob("*.yaml"):
        spec = yaml.safe_load(path.read_text())["spec"]
        for served in spec["versions"]:
            schema = strict(served["schema"]["openAPIV3Schema"])
            schema["properties"] |= {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"type": "object"},
            }
            name = f"{spec['names']['kind']}-{spec['group'].partition('.')[0]}-{served['name']}.json"
            (out / name.lower()).write_text(json.dumps(schema))


if __name__ == "__main__":
    main(sys.argv[1:])
