"""Says what NetworkPolicies allow, as the Kubernetes API defines it: (from Pod, to Pod, port)."""

import ipaddress
from dataclasses import dataclass, field
from typing import Any

Rules = list[dict[str, Any]]


@dataclass(frozen=True)
class Place:
    """A Pod, or an address outside the cluster."""

    labels: dict[str, str] = field(default_factory=dict)
    namespace: str = "eagerly"
    address: str = "10.0.0.1"
    is_pod: bool = True


class Policies:
    """The NetworkPolicies of one namespace; Pods elsewhere have none."""

    def __init__(self, manifests: list[dict[str, Any]], namespace: str = "eagerly") -> None:
        self._specs = [one["spec"] for one in manifests if one["kind"] == "NetworkPolicy"]
        self._namespace = namespace

    def allow(self, source: Place, target: Place, port: int, protocol: str = "TCP") -> bool:
        """Whether a connection can be made: the target must let it in, and the source let it out."""
        return self._half("Ingress", target, source, port, protocol) and self._half(
            "Egress", source, target, port, protocol
        )

    def _half(self, direction: str, here: Place, there: Place, port: int, protocol: str) -> bool:
        chosen = [spec for spec in self._specs if self._selects(spec, direction, here)]
        rules, peers = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
        return not chosen or any(
            self._fits(rule, peers, there, port, protocol) for spec in chosen for rule in spec.get(rules, [])
        )

    def _selects(self, spec: dict[str, Any], direction: str, place: Place) -> bool:
        if not place.is_pod or place.namespace != self._namespace or direction not in spec["policyTypes"]:
            return False
        return matches(spec["podSelector"], place.labels)

    def _fits(self, rule: dict[str, Any], peers: str, there: Place, port: int, protocol: str) -> bool:
        ports = rule.get("ports")
        if ports and not any(one["port"] == port and one.get("protocol", "TCP") == protocol for one in ports):
            return False
        return peers not in rule or any(self._is(peer, there) for peer in rule[peers])

    def _is(self, peer: dict[str, Any], there: Place) -> bool:
        if block := peer.get("ipBlock"):
            address = ipaddress.ip_address(there.address)
            inside = address in ipaddress.ip_network(block["cidr"])
            return inside and not any(address in ipaddress.ip_network(out) for out in block.get("except", []))
        if not there.is_pod:
            return False
        if "namespaceSelector" in peer:
            if not matches(peer["namespaceSelector"], {"kubernetes.io/metadata.name": there.namespace}):
                return False
        elif there.namespace != self._namespace:
            return False
        return matches(peer.get("podSelector", {}), there.labels)


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector selects; only the operators that the chart uses."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", expression
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True
