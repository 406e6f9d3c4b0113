# A control plane and kubelets in a separate network namespace, with all state in $dir. Sourced after step.bash by a script that
# enter_network has restarted in that namespace.
# shellcheck shell=bash disable=SC2154 # assigned by step.bash

# Addresses of the test hosts. The API server does not proxy to loopback addresses.
nodes=(10.77.0.2 10.77.0.3 10.77.0.4)

# Restarts the script in a network namespace, which ends with its last process.
enter_network() { # script, arguments...
    [ "${CHECKPOINT_NETWORK:-}" ] && return
    type ip unshare openssl > /dev/null 2>&1 || skip "a cluster needs ip, unshare and openssl"
    unshare --net true 2> /dev/null || skip "network namespaces are not available"
    local status=0
    CHECKPOINT_NETWORK=own unshare --net "$@" &
    child=$!
    trap 'kill "$child" 2> /dev/null; wait "$child"; exit 143' TERM INT
    wait "$child" || status=$?
    exit "$status"
}

make_network() {
    ip link set lo up
    ip link add node0 type veth peer name node1
    ip link set node0 up
    ip link set node1 up
    local address
    for address in "${nodes[@]}"; do ip addr add "$address/24" dev node0; done
}

# Issues a certificate of the cluster's authority: $dir/pki/NAME.crt and .key.
certificate() { # name, subject
    (
        cd "$dir/pki" || exit
        local names=DNS:localhost,IP:127.0.0.1,IP:10.96.0.1 address
        for address in "${nodes[@]}"; do names+=,IP:$address; done
        openssl req -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2"
        openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -out "$1.crt" -days 2 \
            -extfile <(echo "subjectAltName=$names")
    ) 2>> "$dir/pki/openssl.log"
}

# Writes $dir/NAME.kubeconfig with the certificate NAME, or with the given token.
kubeconfig() { # name, [token]
    local user="client-certificate: $dir/pki/$1.crt, client-key: $dir/pki/$1.key"
    [ -z "${2:-}" ] || user="token: $2"
    cat > "$dir/$1.kubeconfig" << YAML
apiVersion: v1
kind: Config
current-context: cluster
contexts: [{name: cluster, context: {cluster: cluster, user: $1}}]
clusters: [{name: cluster, cluster: {server: "https://127.0.0.1:$api_port", certificate-authority: $dir/pki/ca.crt}}]
users: [{name: $1, user: {$user}}]
YAML
}

kubectl() { # as the cluster's administrator
    "$kubectl" --kubeconfig "$dir/admin.kubeconfig" ${namespace:+--namespace "$namespace"} "$@"
}

# Starts etcd, API server, controller manager and scheduler; fails if they do not become ready.
start_control_plane() {
    local command etcd_port peer_port
    local -A made
    for command in kubelet-1.36 etcd kube-apiserver kube-controller-manager kube-scheduler kubectl; do
        need "$command"
        made[$command]=$tool
    done
    kubectl=${made[kubectl]} kubelet=${made[kubelet-1.36]}
    api_port=$(free_port) etcd_port=$(free_port) peer_port=$(free_port)
    mkdir -p "$dir/pki"
    openssl req -x509 -newkey rsa:2048 -nodes -keyout "$dir/pki/ca.key" -out "$dir/pki/ca.crt" -subj /CN=cluster -days 2 \
        2>> "$dir/pki/openssl.log"
    openssl genrsa -out "$dir/pki/accounts.key" 2048 2>> "$dir/pki/openssl.log"
    certificate apiserver /O=system:masters/CN=kube-apiserver
    certificate admin /O=system:masters/CN=admin
    certificate controller-manager /CN=system:kube-controller-manager
    certificate scheduler /CN=system:kube-scheduler
    local name
    for name in admin controller-manager scheduler; do kubeconfig "$name"; done

    start etcd "${made[etcd]}" --data-dir "$dir/etcd" --unsafe-no-fsync --initial-cluster "default=http://127.0.0.1:$peer_port" \
        --listen-client-urls "http://127.0.0.1:$etcd_port" --advertise-client-urls "http://127.0.0.1:$etcd_port" \
        --listen-peer-urls "http://127.0.0.1:$peer_port" --initial-advertise-peer-urls "http://127.0.0.1:$peer_port"
    start apiserver "${made[kube-apiserver]}" --etcd-servers "http://127.0.0.1:$etcd_port" \
        --bind-address 127.0.0.1 --advertise-address "${nodes[0]}" --secure-port "$api_port" --cert-dir "$dir/pki" \
        --tls-cert-file "$dir/pki/apiserver.crt" --tls-private-key-file "$dir/pki/apiserver.key" --client-ca-file "$dir/pki/ca.crt" \
        --kubelet-client-certificate "$dir/pki/apiserver.crt" --kubelet-client-key "$dir/pki/apiserver.key" \
        --kubelet-certificate-authority "$dir/pki/ca.crt" --kubelet-preferred-address-types InternalIP \
        --service-account-issuer https://cluster.invalid --service-account-key-file "$dir/pki/accounts.key" \
        --service-account-signing-key-file "$dir/pki/accounts.key" --service-cluster-ip-range 10.96.0.0/24 \
        --authorization-mode Node,RBAC --endpoint-reconciler-type none
    until_true 60 'the API server does not get ready' kubectl get --raw /readyz
    start controller-manager "${made[kube-controller-manager]}" --kubeconfig "$dir/controller-manager.kubeconfig" \
        --bind-address 127.0.0.1 --secure-port 0 --leader-elect=false --use-service-account-credentials \
        --service-account-private-key-file "$dir/pki/accounts.key" --root-ca-file "$dir/pki/ca.crt"
    start scheduler "${made[kube-scheduler]}" --kubeconfig "$dir/scheduler.kubeconfig" --authentication-kubeconfig '' \
        --bind-address 127.0.0.1 --secure-port 0 --leader-elect=false
    until_true 30 'no service account appears' kubectl get serviceaccount default
}

# Starts a kubelet that joins as the node ADDRESS, with the runtime at ENDPOINT. Its directory is $dir/ADDRESS, its pid $pid.
start_node() { # address, endpoint
    local node=$1 node_dir=$dir/$1
    mkdir -p "$node_dir/config.d"
    certificate "$node" "/O=system:nodes/CN=system:node:$node"
    kubeconfig "$node"
    cat > "$node_dir/config.d/50-node.conf" << YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $node
port: 10250
registerNode: true
tlsCertFile: $dir/pki/$node.crt
tlsPrivateKeyFile: $dir/pki/$node.key
authentication:
  webhook: {enabled: true}
  x509: {clientCAFile: $dir/pki/ca.crt}
authorization: {mode: Webhook}
containerRuntimeEndpoint: $2
podLogsDir: $node_dir/logs
volumePluginDir: $node_dir/plugins
enforceNodeAllocatable: [none] # an empty list does not outlive the merge of two files
YAML
    start "kubelet-$node" "$kubelet" --config fixtures/kubelet/standalone.yaml --config-dir "$node_dir/config.d" \
        --root-dir "$node_dir/kubelet" --cert-dir "$node_dir/pki" --kubeconfig "$dir/$node.kubeconfig" --hostname-override "$node" --v 2
    until_true 60 "the node $node does not get ready" kubectl wait --for=condition=Ready "node/$node" --timeout=1s
}
