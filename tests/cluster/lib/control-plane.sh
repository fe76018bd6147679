# The network, the certificates and the control plane. Sourced by ../cluster.
#
# The machine `control` owns the network namespace in which the whole cluster lives. A veth leads to the host and to nothing else:
# there is no default route, so nothing that the cluster sends can leave this computer.
# shellcheck shell=bash

CONTROL_PLANE=(etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy)

network_up() {
  local init inside
  init=$(machine_init control)
  inside=(nsenter --net="/proc/$init/ns/net")
  if ! ip link show "$VETH" >/dev/null 2>&1; then
    ip link add "$VETH" type veth peer name cluster0 netns "$init"
  fi
  ip address replace "$HOST_IP/24" dev "$VETH"
  ip link set "$VETH" up
  "${inside[@]}" bash -euc "
    ip address replace $API_IP/24 dev cluster0
    ip link set cluster0 up
    ip route replace $SERVICES dev cluster0 src $API_IP # so that programs here can open connections to Services
    ip route replace unreachable default
    echo 1 >/proc/sys/net/ipv4/ip_forward"
  ip route replace "$SERVICES" via "$API_IP" # the host may look at Services and Pods
  ip route replace "$PODS" via "$API_IP"
}

# --- certificates and kubeconfigs: one CA for everything, made once per cluster ------------------------------------------

certificate() { # certificate FOLDER FILE SUBJECT [SUBJECT-ALT-NAMES]
  local folder=$1 file=$2 subject=$3 names=${4:-}
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$subject" -keyout "$folder/$file.key" 2>/dev/null |
    openssl x509 -req -days 3650 -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -out "$folder/$file.crt" \
      -extfile <(printf 'keyUsage=digitalSignature\nextendedKeyUsage=clientAuth,serverAuth\n%s' "${names:+subjectAltName=$names}") 2>/dev/null
}

certificates() {
  [[ -d $PKI ]] && return
  local new=$PKI.new names
  rm -rf "$new"; mkdir -p "$new"; chmod 700 "$new"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=$CLUSTER-ca" \
    -keyout "$new/ca.key" -out "$new/ca.crt" 2>/dev/null
  openssl ecparam -genkey -noout -name prime256v1 -out "$new/service-accounts.key" 2>/dev/null
  names=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost
  certificate "$new" kube-apiserver /CN=kube-apiserver "$names,IP:$KUBERNETES_SERVICE_IP,IP:$API_IP,IP:127.0.0.1"
  certificate "$new" kube-apiserver-kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
  certificate "$new" admin /O=system:masters/CN=admin
  local user
  for user in kube-controller-manager kube-scheduler kube-proxy; do
    certificate "$new" "$user" "/CN=system:$user"
  done
  # A real cluster has a second CA for the aggregation layer; here it is the same one with a client name that nobody else has.
  certificate "$new" front-proxy-client /CN=front-proxy-client
  for user in admin kube-controller-manager kube-scheduler kube-proxy; do
    kubeconfig_of "$new" "$user" >"$new/$user.kubeconfig"
  done
  mv -T "$new" "$PKI"
  install -m 600 "$PKI/admin.kubeconfig" "$ADMIN_KUBECONFIG"
}

kubeconfig_of() { # kubeconfig_of FOLDER USER
  cat <<EOF
apiVersion: v1
kind: Config
current-context: $CLUSTER
clusters:
  - name: $CLUSTER
    cluster:
      server: https://$API_IP:6443
      certificate-authority-data: $(base64 -w0 "$1/ca.crt")
users:
  - name: $2
    user:
      client-certificate-data: $(base64 -w0 "$1/$2.crt")
      client-key-data: $(base64 -w0 "$1/$2.key")
contexts:
  - name: $CLUSTER
    context: {cluster: $CLUSTER, user: $2}
EOF
}

# --- the components -------------------------------------------------------------------------------------------------------

start_etcd() {
  local fsync=(--unsafe-no-fsync) # nothing here has to survive a power cut; KONDUCTOR_FSYNC=1 for honest write latencies
  [[ ${KONDUCTOR_FSYNC:-} ]] && fsync=()
  mkdir -p "$STATE/etcd"; chmod 700 "$STATE/etcd"
  component_start control etcd etcd --name "$CLUSTER" --data-dir "$STATE/etcd" "${fsync[@]}" \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
    --initial-cluster "$CLUSTER=http://127.0.0.1:2380" --auto-compaction-retention 10m --quota-backend-bytes 4294967296 --log-level warn
}

start_kube-apiserver() {
  component_start control kube-apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 \
    --advertise-address "$API_IP" --secure-port 6443 --service-cluster-ip-range "$SERVICES" --allow-privileged \
    --tls-cert-file "$PKI/kube-apiserver.crt" --tls-private-key-file "$PKI/kube-apiserver.key" --client-ca-file "$PKI/ca.crt" \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$PKI/service-accounts.key" \
    --service-account-signing-key-file "$PKI/service-accounts.key" \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
    --kubelet-client-certificate "$PKI/kube-apiserver-kubelet-client.crt" --kubelet-client-key "$PKI/kube-apiserver-kubelet-client.key" \
    --kubelet-certificate-authority "$PKI/ca.crt" --kubelet-preferred-address-types InternalIP \
    --requestheader-client-ca-file "$PKI/ca.crt" --requestheader-allowed-names front-proxy-client \
    --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
    --requestheader-extra-headers-prefix X-Remote-Extra- \
    --proxy-client-cert-file "$PKI/front-proxy-client.crt" --proxy-client-key-file "$PKI/front-proxy-client.key" \
    --audit-policy-file "$STATE/audit-policy.yaml" --audit-log-path "$LOGS/audit.log" --audit-log-maxsize 500 --audit-log-maxbackup 2
}

start_kube-controller-manager() {
  # A node is lost after 10 s of silence (40 s usually), and its Pods are told so at once instead of one node per 10 s.
  component_start control kube-controller-manager kube-controller-manager --kubeconfig "$PKI/kube-controller-manager.kubeconfig" \
    --authentication-kubeconfig "$PKI/kube-controller-manager.kubeconfig" --authorization-kubeconfig "$PKI/kube-controller-manager.kubeconfig" \
    --bind-address 127.0.0.1 --leader-elect=false --use-service-account-credentials --root-ca-file "$PKI/ca.crt" \
    --service-account-private-key-file "$PKI/service-accounts.key" \
    --cluster-signing-cert-file "$PKI/ca.crt" --cluster-signing-key-file "$PKI/ca.key" \
    --node-monitor-period 1s --node-monitor-grace-period 10s --node-eviction-rate 10 --secondary-node-eviction-rate 10 \
    --kube-api-qps 100 --kube-api-burst 200 --flex-volume-plugin-dir "$STATE/none"
}

start_kube-scheduler() {
  component_start control kube-scheduler kube-scheduler --kubeconfig "$PKI/kube-scheduler.kubeconfig" \
    --authentication-kubeconfig "$PKI/kube-scheduler.kubeconfig" --authorization-kubeconfig "$PKI/kube-scheduler.kubeconfig" \
    --bind-address 127.0.0.1 --leader-elect=false
}

start_kube-proxy() { # one for all nodes: they share the network namespace
  if component_up control kube-proxy; then return; fi # it would end when its configuration is written again
  cat >"$STATE/kube-proxy.yaml" <<EOF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: $PKI/kube-proxy.kubeconfig}
hostnameOverride: node-1
clusterCIDR: $PODS
oomScoreAdj: 0
nftables: {minSyncPeriod: 100ms}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
EOF
  component_start control kube-proxy kube-proxy --config "$STATE/kube-proxy.yaml"
}

kubectl() { "$TOOLS/kubectl" --kubeconfig "$ADMIN_KUBECONFIG" "$@"; }
api_ready() { kubectl get --raw /readyz --request-timeout 2s >/dev/null 2>&1; }

control_plane_up() {
  local component
  for component in etcd kube-apiserver; do "start_$component"; done
}

control_plane_wait() {
  await 180 "the API server to answer" "$LOGS/kube-apiserver.log" api_or_dead
  api_ready || fail "the API server ended" "$LOGS/kube-apiserver.log"
}
api_or_dead() { api_ready || component_down control kube-apiserver; }

controllers_up() {
  local component
  for component in kube-controller-manager kube-scheduler kube-proxy; do "start_$component"; done
}
