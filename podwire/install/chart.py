"""The Helm chart, generated from the same objects: each choice a placeholder that becomes a reference to a value. Pure.

`python -m podwire.install.chart deploy/chart` writes it; a test holds the files to what is generated, and what helm
renders of them to what `podwire install --dry-run` prints.
"""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from podwire import __version__
from podwire.install import daemon, manifests
from podwire.install.options import Options

VALUES = {
    "image": "image",
    "pull_policy": "pullPolicy",
    "pod_cidr": "podCidr",
    "block_size": "blockSize",
    "encapsulation": "encapsulation",
    "mtu": "mtu",
    "api_server": "apiServer",
    "policy_enforce": "policyEnforce",
}
"""Option → value; the namespace is the release's."""
_MARK = "MARK-OF-SETTINGS"
_NUMBERS = {"block_size": 987654321, "mtu": 987654322}


def _placeholder(option: str) -> str:
    return f"CHOICE-{option}-"


def files() -> dict[str, str]:
    """Path in the chart → text."""
    choices = {name: _placeholder(name) for name in ("namespace", *VALUES) if name not in _NUMBERS}
    options = replace(Options(), **choices, **_NUMBERS)  # type: ignore[arg-type]
    default = Options()
    values = {VALUES[field.name]: getattr(default, field.name) for field in fields(Options) if field.name in VALUES}
    chart = {
        "apiVersion": "v2",
        "name": "podwire",
        "version": __version__,
        "appVersion": __version__,
        "description": "A complete pod network for Kubernetes",
        "kubeVersion": ">=1.32.0-0",
        "type": "application",
    }
    found = {
        "Chart.yaml": yaml.safe_dump(chart, sort_keys=False),
        "values.yaml": "# Generated (podwire/install/chart.py); what each means: docs/install.md.\n"
        + yaml.safe_dump(values, sort_keys=False),
        "templates/_settings.tpl": '{{- define "podwire.settings" -}}\n'
        + _templated(daemon.settings(options))
        + "{{ end -}}\n",
    }
    for crd in (*manifests.kinds(default), *manifests.policy_kinds(default)):
        found[f"crds/{crd['metadata']['name']}.yaml"] = manifests.document(crd)
    workload = [each for each in manifests.workload(options, "SETTINGS", _MARK) if each["kind"] != "Namespace"]
    found["templates/podwire.yaml"] = _templated(manifests.text(workload))
    found["templates/pool.yaml"] = _templated(manifests.text([kept(manifests.pool(options))]))
    found["templates/tiers.yaml"] = _templated(manifests.text([kept(each) for each in manifests.tiers()]))
    return found


def kept(one: dict[str, Any]) -> dict[str, Any]:
    """It outlives the release: users' objects are of it."""
    return {**one, "metadata": {**one["metadata"], "annotations": {"helm.sh/resource-policy": "keep"}}}


def _templated(text: str) -> str:
    text = text.replace("{{", '{{ "{{" }}')
    text = text.replace(_placeholder("namespace"), "{{ .Release.Namespace }}")
    for option, value in VALUES.items():
        text = text.replace(str(_NUMBERS.get(option, _placeholder(option))), f"{{{{ .Values.{value} }}}}")
    text = text.replace(_MARK, '{{ include "podwire.settings" . | sha256sum | trunc 16 | quote }}')
    return text.replace(
        "agent.toml: SETTINGS", 'agent.toml: {{ include "podwire.settings" . | toYaml | indent 4 | trim }}'
    )


def main(folder: Path) -> None:
    """Write the chart, and remove what is not of it."""
    wanted = files()
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if str(path.relative_to(folder)) not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
