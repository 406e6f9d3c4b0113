# Starts a real containerd that keeps to $dir, with runc and, where there is one, CRIU. Sourced after step.bash.
# shellcheck shell=bash disable=SC2154,SC2034 # assigned by step.bash, used by steps

# The image of the containers and, as it only has to stay, of the Pods' sandboxes.
image=checkpoint-conformance.dev/test-workload:1

# containerd of ci/tool, its socket in $endpoint, its ctr (with its arguments) in the array "ctr".
start_containerd() { # tool: containerd or containerd-1.6
    local path=$PATH
    need "$1"
    local containerd=$tool
    need runc
    path=$(dirname "$tool"):$path
    mkdir "$dir/ctrd"
    local=() # the arguments of an import that the daemon would otherwise do, for its default snapshotter alone
    if [ "$1" = containerd ]; then
        local=(--local)
        need criu
        path=$(dirname "$tool"):$path
        # restrict_oom_score_adj and the native snapshotter are for machines in containers and small virtual ones,
        # which lack CAP_SYS_RESOURCE or stack overlayfs on overlayfs.
        cat > "$dir/ctrd/config.toml" << TOML
version = 3
root = "$dir/ctrd/root"
state = "$dir/ctrd/state"
[grpc]
address = "$dir/ctrd/sock"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "native"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "$image"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
conf_dir = "$dir/ctrd/cni"
TOML
        # A network that no Pod joins: all of them use the node's. Without one a node is not ready.
        mkdir "$dir/ctrd/cni"
        echo '{"cniVersion": "1.0.0", "name": "none", "plugins": [{"type": "none"}]}' > "$dir/ctrd/cni/none.conflist"
    else
        cat > "$dir/ctrd/config.toml" << TOML
version = 2
root = "$dir/ctrd/root"
state = "$dir/ctrd/state"
[grpc]
address = "$dir/ctrd/sock"
[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
sandbox_image = "$image"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
TOML
    fi
    endpoint=unix://$dir/ctrd/sock
    ctr=("$(dirname "$containerd")/ctr" --address "$dir/ctrd/sock" --namespace k8s.io)
    PATH=$(dirname "$containerd"):$path start containerd "$containerd" --config "$dir/ctrd/config.toml"
    before_stop[$pid]=remove_containers
    until_true 30 "containerd does not come up" "${ctr[@]}" version
    "$containerd" --version
}

# Containers outlive their containerd, so none may be left when it ends. One that is frozen cannot be killed.
remove_containers() {
    local container
    for container in $("${ctr[@]}" tasks list --quiet); do
        "${ctr[@]}" tasks resume "$container"
        "${ctr[@]}" tasks delete --force "$container"
    done > /dev/null 2>&1
    rmdir /sys/fs/cgroup/{,*/}k8s.io/* /sys/fs/cgroup/{,*/}k8s.io 2> /dev/null
}

# Makes the harness's image and gives it to containerd.
import_image() {
    ci/image "$dir/image.tar"
    "${ctr[@]}" images import "${local[@]}" --snapshotter native "$dir/image.tar" > /dev/null
}
