#!/bin/sh
# Runs a command in a network of its own: unshare -n tests/kube/alone.sh COMMAND
# The Kubernetes API server wants an address and a default route; this one leads nowhere.
set -eu
ip link set lo up
ip link add net0 type veth peer name net1
ip address add 192.0.2.1/24 dev net0
ip link set net0 up
ip link set net1 up
ip route add default via 192.0.2.254
EAGERLY_END_TO_END=1 exec "$@"
