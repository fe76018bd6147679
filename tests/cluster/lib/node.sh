# Nodes: a machine with containerd and a kubelet. Sourced by ../cluster.
#
#   $STATE/nodes/NAME/disk    its /var/lib: survives node kill and node start, as a disk survives a power cut
#                     loaded  which images it has
# shellcheck shell=bash

nodes() { # those that were added and not removed, running or not
  local path
  for path in "$STATE"/nodes/node-*; do
    if [[ -d $path ]]; then echo "${path##*/}"; fi
  done
}

node_must_exist() { [[ -d $STATE/nodes/$1 && $1 ]] || die "there is no node '$1' (there are: $(nodes | xargs))"; }

cgroup_roots() { awk '$3 == "cgroup" || $3 == "cgroup2" {print $3, $2}' /proc/mounts; }

cgroup_make() { # cgroup_make PATH: in every hierarchy, ready to hold containers
  local type root path part
  while read -r type root; do
    path=$root
    for part in ${1//\// }; do
      # cgroup v2: a controller is there for a group's children only when it is switched on
      if [[ $type == cgroup2 && -s $path/cgroup.controllers ]]; then
        sed 's/[^ ]*/+&/g' "$path/cgroup.controllers" >"$path/cgroup.subtree_control" 2>/dev/null || true
      fi
      path=$path/$part
      mkdir -p "$path"
      # cgroup v1: a new cpuset is empty, and nothing can run in it
      if [[ $type == cgroup && -e $path/cpuset.mems && -z $(<"$path/cpuset.mems") ]]; then
        cat "${path%/*}/cpuset.cpus" >"$path/cpuset.cpus"
        cat "${path%/*}/cpuset.mems" >"$path/cpuset.mems"
      fi
    done
  done < <(cgroup_roots)
}

cgroup_remove() { # cgroup_remove PATH
  local _ root
  while read -r _ root; do
    [[ -d $root/$1 ]] && find "$root/$1" -depth -type d -exec rmdir {} + 2>/dev/null
  done < <(cgroup_roots)
  return 0
}

node_configure() { # writes its configuration to its disk, where containerd and kubelet see it under /var/lib
  local name=$1 disk=$STATE/nodes/$1/disk
  mkdir -p "$disk/kubelet/pki" "$disk/cni/net.d" "$disk/containerd"
  if [[ ! -e $PKI/$name.kubeconfig ]]; then
    certificate "$PKI" "$name" "/O=system:nodes/CN=system:node:$name" "DNS:$name,IP:$(node_ip "$name")"
    kubeconfig_of "$PKI" "$name" >"$PKI/$name.kubeconfig.new"
    mv "$PKI/$name.kubeconfig.new" "$PKI/$name.kubeconfig"
  fi
  cp "$PKI/ca.crt" "$PKI/$name.crt" "$PKI/$name.key" "$disk/kubelet/pki/"
  cp "$PKI/$name.kubeconfig" "$disk/kubelet/kubeconfig"

  # restrict_oom_score_adj: without CAP_SYS_RESOURCE (a container, a small VM) no process may be made less killable.
  cat >"$disk/containerd.toml" <<EOF
version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.tracing"]
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE_IMAGE"
  restrict_oom_score_adj = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/var/lib/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
EOF

  # ptp: every Pod has a veth of its own and a route to it. No bridge: Pods of all nodes meet in one routing table, and what goes
  # from Pod to Service to Pod always passes through the firewall rules of kube-proxy.
  cat >"$disk/cni/net.d/10-pods.conflist" <<EOF
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "subnet": "$(pod_range "$name")", "routes": [{"dst": "0.0.0.0/0"}]}}]}
EOF

  # A container that ends again and again is started again after up to five minutes, or after this long at the most.
  local restart=''
  if [[ ${KONDUCTOR_RESTART_WITHIN:-} ]]; then
    printf -v restart '%s\n' 'featureGates: {KubeletCrashLoopBackOffMax: true}' "crashLoopBackOff: {maxContainerRestartPeriod: $KONDUCTOR_RESTART_WITHIN}"
  fi

  # clusterDNS: there is none. An address where nothing listens makes a look-up fail at once (an empty list would put a Warning
  # event on every Pod). nodeLeaseDurationSeconds 8: a heartbeat every 2 s. Images are only imported, so none is ever collected.
  cat >"$disk/kubelet/config.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $(node_ip "$name")
healthzPort: 0
authentication:
  anonymous: {enabled: false}
  x509: {clientCAFile: /var/lib/kubelet/pki/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: /var/lib/kubelet/pki/$name.crt
tlsPrivateKeyFile: /var/lib/kubelet/pki/$name.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP/$name
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
oomScoreAdj: 0
maxPods: 250
resolvConf: ""
clusterDomain: cluster.local
clusterDNS: ["$(node_ip "$name")"]
nodeStatusUpdateFrequency: 2s
nodeStatusReportFrequency: 1m
nodeLeaseDurationSeconds: 8
kubeAPIQPS: 100
kubeAPIBurst: 200
volumeStatsAggPeriod: -1s
volumePluginDir: /var/lib/kubelet/volume-plugins
makeIPTablesUtilChains: false
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
$restart
EOF
}

node_up() { # starts what is not running of it; returns before it is Ready
  local name=$1
  node_resume "$name"
  machine_up "$name" || cgroup_remove "$CGROUP/$name" # what a killed node leaves would hold its next kubelet up for 10 s
  machine_start "$name"
  nsenter --net="/proc/$(machine_init control)/ns/net" ip address replace "$(node_ip "$name")/24" dev cluster0
  cgroup_make "$CGROUP/$name"
  node_configure "$name"
  start_containerd "$name"
}

start_containerd() { component_start "$1" containerd containerd --config /var/lib/containerd.toml; }

node_images() { # containerd answers, and has the images
  await 60 "containerd of $1" "$LOGS/$1/containerd.log" machine_exec "$1" ctr --address /run/containerd/containerd.sock version >/dev/null
  images_import "$1"
}

start_kubelet() { # in a group of its own, by which node_pause tells its packets from those of other programs
  component_start "$1" kubelet setpriv --regid "$(node_group "$1")" --clear-groups \
    /run/konductor/bin/kubelet --config /var/lib/kubelet/config.yaml --kubeconfig /var/lib/kubelet/kubeconfig --hostname-override "$1" --node-ip "$(node_ip "$1")"
}

node_ready() { # says so itself, since its kubelet was last started
  local ready heartbeat taints since
  IFS=' ' read -r ready heartbeat taints < <(kubectl get node "$1" --request-timeout 2s \
    -o 'jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status} {.lastHeartbeatTime}{end} {.spec.taints}' 2>/dev/null) || true # no newline at its end
  since=$(stat -c %Y "$STATE/machines/$1/kubelet" 2>/dev/null) || return 1
  [[ $ready == True && ! $taints && $(date -d "$heartbeat" +%s) -ge $since ]]
}
node_wait() {
  await 180 "$1 to be Ready" "$LOGS/$1/kubelet.log" node_ready_or_dead "$1"
  component_up "$1" kubelet || fail "the kubelet of $1 ended" "$LOGS/$1/kubelet.log"
}
node_ready_or_dead() { node_ready "$1" || component_down "$1" kubelet; }

node_kill() { machine_kill "$1"; }

node_remove() {
  machine_kill "$1"
  node_resume "$1"
  cgroup_remove "$CGROUP/$1"
  kubectl delete node "$1" --ignore-not-found --request-timeout 10s >/dev/null || true
  nsenter --net="/proc/$(machine_init control)/ns/net" ip address delete "$(node_ip "$1")/24" dev cluster0 2>/dev/null || true
  rm -rf "${STATE:?}/nodes/$1" "${LOGS:?}/$1"
}

# A network partition: packets between the node (its kubelet and its Pods) and everything else are dropped without an answer,
# while the node's kubelet, containers and the traffic between them go on. Not cut: Pods with hostNetwork, which cannot be told
# from the host here.
node_pause() {
  local pods ip group
  pods=$(pod_range "$1") ip=$(node_ip "$1") group=$(node_group "$1")
  firewall "
    table inet cut-$1 {
      chain output {
        type filter hook output priority 10
        meta skgid $group ip daddr != $pods drop
        meta skgid != $group ip daddr { $pods, $ip } drop
      }
      chain input {
        type filter hook input priority 10
        ip saddr $pods ip daddr != $pods drop
      }
      chain forward {
        type filter hook forward priority 10
        ip saddr $pods ip daddr != $pods drop
        ip saddr != $pods ip daddr $pods drop
      }
    }"
}
node_resume() {
  if node_paused "$1"; then firewall "delete table inet cut-$1"; fi
}
node_paused() { firewall "list table inet cut-$1" >/dev/null 2>&1; }
firewall() { nsenter --net="/proc/$(machine_init control)/ns/net" nft -f - <<<"$1"; }
