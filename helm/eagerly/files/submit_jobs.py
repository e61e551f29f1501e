"""Makes a RayJob for each task, from the template that the chart keeps; standard library only.

python submit_jobs.py rayjob.json sentiment classifier -- --epochs=20
"""

import json
import os
import shlex
import ssl
import sys
import urllib.request
from pathlib import Path

ACCOUNT = Path(os.environ.get("SERVICE_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))


def job(template: str, task: str, flags: list[str]) -> dict:
    """Fills in the task, in the job's name and command."""
    filled = json.loads(template)
    filled["metadata"]["generateName"] += f"{task}-"
    filled["metadata"]["labels"]["eagerly/task"] = task
    start, _, rest = filled["spec"]["entrypoint"].partition(" train ")
    filled["spec"]["entrypoint"] = f"{start} train {task} {rest} {shlex.join(flags)}".strip()
    return filled


def submit(filled: dict) -> str:
    """Asks the Kubernetes API for a job; returns its name."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    place = f"[{host}]" if ":" in host else host
    url = f"https://{place}:{port}/apis/ray.io/v1/namespaces/{filled['metadata']['namespace']}/rayjobs"
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}", "Content-Type": "application/json"}
    trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    request = urllib.request.Request(url, json.dumps(filled).encode(), headers, method="POST")
    with urllib.request.urlopen(request, timeout=30, context=trust) as reply:
        return json.load(reply)["metadata"]["name"]


def main(words: list[str]) -> None:
    """Submits a job for every task before `--`, with the flags after it."""
    cut = words.index("--") if "--" in words else len(words)
    template = Path(words[0]).read_text()
    for task in words[1:cut]:
        print(f"{task}: {submit(job(template, task, words[cut + 1 :]))}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
