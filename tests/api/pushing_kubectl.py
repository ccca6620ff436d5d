#!/usr/bin/python3 -ISE
"""FAKE. A kubectl with one namespace, whose objects are JSON files in `$FAKE_KUBECTL`: a pod gets
the status that stands in `pod-status.json`, a claim that in `claim-status.json`. `exec` runs the
command here."""

import json
import os
import sys
from pathlib import Path

folder = Path(os.environ["FAKE_KUBECTL"])
words = [word for word in sys.argv[1:] if not word.startswith(("--context", "--request-timeout"))]
with (folder / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps(words) + "\n")
words = [word for word in words if not word.startswith("--namespace")]


def stored(kind: str, name: str) -> Path:
    return folder / f"{kind.lower()}-{name}.json"


verb, *rest = words
if verb == "config":
    context = {"name": "here", "context": {"namespace": "llm"}}
    print(json.dumps({"current-context": "here", "contexts": [context]}))
elif verb == "kustomize":
    print((Path(rest[0]) / "rendered/default.yaml").read_text())
elif verb == "get" and rest[0] == "events":
    print(json.dumps({"items": []}))
elif verb == "get":
    if stored(*rest[:2]).exists():
        print(stored(*rest[:2]).read_text())
elif verb == "apply":
    item = json.loads(sys.stdin.read())
    kind, name = item["kind"], item["metadata"]["name"]
    short = {"PersistentVolumeClaim": "claim", "Pod": "pod"}[kind]
    item["status"] = json.loads((folder / f"{short}-status.json").read_text())
    item["metadata"]["uid"] = "1"
    stored(kind, name).write_text(json.dumps(item))
    (folder / f"applied-{short}.json").write_text(json.dumps(item))
    print(json.dumps(item))
elif verb == "delete":
    stored(*rest[:2]).unlink(missing_ok=True)
elif verb == "exec":
    command = rest[rest.index("--") + 1 :]
    os.execvp(command[0], command)
else:
    sys.exit(f"error: the fake kubectl does not know {words}")
