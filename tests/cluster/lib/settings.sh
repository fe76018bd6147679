# Names, folders and addresses of the cluster, in one place. Sourced by ../cluster.
# shellcheck shell=bash disable=SC2034  # used by the other files

KUBERNETES_VERSION=v1.34.4

CLUSTER=${KONDUCTOR_CLUSTER:-konductor}
[[ $CLUSTER =~ ^[a-z][a-z0-9-]{0,19}$ ]] || die "KONDUCTOR_CLUSTER must be a short lower-case name, not '$CLUSTER'"

if [[ $CLUSTER == konductor ]]; then
  STATE=${KONDUCTOR_STATE:-/var/lib/konductor-cluster}
else
  STATE=${KONDUCTOR_STATE:-/var/lib/konductor-cluster-$CLUSTER}
fi
CACHE=${KONDUCTOR_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/konductor}

LOGS=$STATE/logs
PKI=$STATE/pki
IMAGES=$STATE/images
ADMIN_KUBECONFIG=$STATE/kubeconfig

# Every cluster has one /16 of its own, inside its own network namespace: other clusters and the host cannot collide with it.
if [[ $CLUSTER == konductor ]]; then
  OCTET=213
else
  OCTET=$((64 + $(cksum <<<"$CLUSTER" | cut -d' ' -f1) % 128))
fi
HOST_IP=10.$OCTET.0.1                 # the host's end of the veth
API_IP=10.$OCTET.0.2                  # the API server
SERVICES=10.$OCTET.240.0/20
KUBERNETES_SERVICE_IP=10.$OCTET.240.1
PODS=10.$OCTET.16.0/20                # of all nodes; see pod_range
VETH=kon$OCTET
PAUSE_IMAGE=konductor.local/pause:1
SAMPLE_IMAGE=konductor.local/busybox:1

# The cgroup (below each hierarchy's root) that holds the nodes' containers.
CGROUP=konductor-cluster/$CLUSTER

# Nodes are node-1 to node-7: the number gives the addresses, and the group id by which the firewall knows the node's programs
# (see node_pause).
MAX_NODES=7
node_ip() { echo "10.$OCTET.0.$((10 + ${1#node-}))"; }
pod_range() { echo "10.$OCTET.$((16 + 2 * (${1#node-} - 1))).0/23"; }
node_group() { echo $((21000 + ${1#node-})); }
