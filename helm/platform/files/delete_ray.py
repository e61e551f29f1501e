"""Deletes a release's RayJobs, RayServices and RayClusters, and waits until the operator has finished each of them.

python delete_ray.py NAMESPACE RELEASE

Standard library only.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ACCOUNT = Path(os.environ.get("SERVICE_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
LIMIT_S = float(os.environ.get("LIMIT_S", "270"))
STEPS = (("rayjobs",), ("rayservices", "rayclusters"))
"""Kinds, in the order of their end: a job is stopped while its cluster still answers."""


class Api:
    """Ray's kinds in one namespace, with the right of the Pod's service account."""

    def __init__(self, namespace: str, release: str) -> None:
        """Reads where the API is and who asks."""
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        place = f"[{host}]" if ":" in host else host
        self._url = f"https://{place}:{port}/apis/ray.io/v1/namespaces/{namespace}"
        self._chosen = urllib.parse.urlencode({"labelSelector": f"app.kubernetes.io/instance={release}"})
        self._trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        self._token = (ACCOUNT / "token").read_text().strip()

    def delete(self, kind: str) -> None:
        """Asks for the end of all objects of a kind."""
        self._call("DELETE", kind)

    def names(self, kind: str) -> list[str]:
        """Lists what is there still, as kind/name."""
        return [f"{kind}/{one['metadata']['name']}" for one in self._call("GET", kind).get("items", [])]

    def _call(self, method: str, kind: str) -> dict:
        headers = {"Authorization": f"Bearer {self._token}"}
        request = urllib.request.Request(f"{self._url}/{kind}?{self._chosen}", headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30, context=self._trust) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as problem:
            if problem.code == 404:  # the kind itself is gone, and all of its objects
                return {}
            raise


def end(api: Api, kinds: tuple[str, ...], until: float) -> list[str]:
    """Deletes all objects of some kinds; returns the names of those that are left when the time is over."""
    for kind in kinds:
        api.delete(kind)
    while (left := [name for kind in kinds for name in api.names(kind)]) and time.monotonic() < until:
        print("waiting for", *left, flush=True)
        time.sleep(1)
    return left


def main(words: list[str]) -> int:
    """Ends one kind after the other; 1 where the operator does not finish one."""
    namespace, release = words
    api, until = Api(namespace, release), time.monotonic() + LIMIT_S
    for kinds in STEPS:
        if left := end(api, kinds, until):
            print(f"after {LIMIT_S:g} s there still: {' '.join(left)}; is the KubeRay operator running?", flush=True)
            return 1
    print("nothing of Ray's is left", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
