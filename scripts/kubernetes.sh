#!/usr/bin/env bash
# Runs a command beside a Kubernetes cluster of one node, which ends with the command and leaves nothing behind. Needs root.
#
#   scripts/kubernetes.sh COMMAND [ARGUMENT…]
#   scripts/kubernetes.sh --build          only installs the packages and builds the programs, which takes minutes, once
#   scripts/kubernetes.sh --possible       whether that can be done here; says what is missing. Where CI is set it must be.
#
# The command finds kubectl on its PATH, an administrator's token in KUBECONFIG, and in WATTLE_CTR what brings images to the
# node, as `docker save` writes them: `$WATTLE_CTR images import FILE`. None can be pulled, so that containers need
# `imagePullPolicy: Never`.
#
# Debian has no package of a Kubernetes to run, but one of its source. The cluster's processes, mounts and network are in
# namespaces of their own, so that it cannot touch the machine, nobody on the machine can reach it, and it ends as a whole.
# The command alone shares its network: 127.0.0.1 is the node's there, addresses of pods and Services answer, and no others.
set -euo pipefail

version=1.20.2
# For the cluster, and for building it.
declare -A packages=(
  [conntrack]=conntrack [containerd]=containerd [dnsmasq]=dnsmasq-base [etcd]=etcd-server [ip]=iproute2 [iptables]=iptables
  [openssl]=openssl [runc]=runc [/usr/lib/cni/ptp]=containernetworking-plugins
)
go=/usr/lib/go-1.19/bin/go
reflect2=/usr/share/gocode/src/github.com/modern-go/reflect2
declare -A build_packages=(
  [cc]=gcc [dpkg-source]=dpkg-dev ["$go"]=golang-1.19-go ["$reflect2"]=golang-github-modern-go-reflect2-dev
)
programs=(kube-apiserver kube-controller-manager kube-proxy kube-scheduler kubectl kubelet)

# The node's own address is what its pods take for their gateway, the first of theirs.
address=10.244.0.1
pods=10.244.0.0/24
services=10.96.0.0/16

cache="${XDG_CACHE_HOME:-$HOME/.cache}/wattle/kubernetes"
bin="$cache/$version"

fail() {
  echo "kubernetes: $*" >&2
  exit 1
}

# Debian's archives seldom have their sources enabled, so that lists of their sources are read into the folder "$apt".
apt_sources() {
  apt-get -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$apt/parts" -o Dir::State::Lists="$apt/lists" \
    -o Dir::Cache::PkgCache= -o Dir::Cache::SrcPkgCache= -o APT::Sandbox::User=root "$@"
}

# Whether apt-get finds the source.
find_source() {
  local file found
  mkdir -p "$apt/parts" "$apt/lists/partial"
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ ! -f "$file" ] || sed -E -n 's/^deb[[:space:]]/deb-src /p' "$file" >"$apt/parts/$(basename "$file")"
  done
  for file in /etc/apt/sources.list.d/*.sources; do
    [ ! -f "$file" ] || sed -E 's/^Types:.*/Types: deb-src/' "$file" >"$apt/parts/$(basename "$file")"
  done
  # An archive of somebody else's may have no sources; that is no reason to fail.
  apt_sources update --quiet=2 >/dev/null 2>&1 || true
  found="$(cd "$apt" && apt_sources source --print-uris kubernetes 2>/dev/null)" || return 1
  grep -Eq " kubernetes_([^ ]*[+]really)?$version-[^ ]*[.]dsc " <<<"$found"
}

# Says in one line why it cannot be done here.
impossible() {
  if [ "$(id -u)" -ne 0 ]; then
    echo "only root can start a cluster"
  elif ! unshare --cgroup --mount --net --pid --fork true 2>/dev/null; then
    echo "this machine allows no namespaces"
  elif [ -z "$(hierarchies)" ] || ! hierarchies | while read -r folder; do [ -w "$folder" ] || exit 1; done; then
    echo "no cgroup can be made below /sys/fs/cgroup"
  elif [ "$(stat --file-system --format %T "${TMPDIR:-/tmp}")" = overlayfs ]; then
    echo "${TMPDIR:-/tmp} is an overlay, on which containers cannot stand; name a folder of a disk in TMPDIR"
  elif [ ! -d "$bin" ]; then
    if ! command -v apt-get >/dev/null; then
      echo "this machine has no apt-get, from which the source of Kubernetes comes"
    else
      apt="$(mktemp -d)"
      find_source || echo "apt-get finds no source of Kubernetes $version, which Debian 12 has"
      rm -rf "$apt"
    fi
  fi
}

# Where control groups are mounted: one folder, or with version 1 one for each controller.
hierarchies() {
  awk '$3 ~ /^cgroup/ { print $2 }' /proc/mounts
}

# Installs those packages of an array that are missing; its keys are a program or a path of each.
install() {
  local -n wanted="$1"
  local program missing=() log
  for program in "${!wanted[@]}"; do
    command -v "$program" >/dev/null || [ -e "$program" ] || missing+=("${wanted[$program]}")
  done
  [ "${#missing[@]}" -gt 0 ] || return 0
  echo "kubernetes: installing ${missing[*]}" >&2
  log="$(mktemp)"
  if ! {
    apt-get update --quiet &&
      DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends "${missing[@]}"
  } >"$log" 2>&1; then
    fail "apt-get failed (its words are in $log); run \`apt-get install ${missing[*]}\` and try again"
  fi
  rm -f "$log"
}

# Runs a step of the build, whose words are shown only when it fails. Not in a condition, where it would go on after errors.
step() {
  local started="$SECONDS"
  echo "kubernetes: $1" >&2
  ("${@:2}") >"$work/log" 2>&1
  echo "kubernetes: that took $((SECONDS - started)) s" >&2
}

fetch() {
  find_source
  (cd "$work" && apt_sources source --download-only kubernetes)
  mkdir -p "$work/go/src/k8s.io"
  dpkg-source --extract "$work"/kubernetes_*.dsc "$work/go/src/k8s.io/kubernetes"
}

compile() {
  local described flags="-s -w" package
  export GOPATH="$work/go" GOCACHE="$work/cache" GOTMPDIR="$work" GO111MODULE=off GOPROXY=off CGO_ENABLED=0
  cd "$work/go/src/k8s.io/kubernetes"
  # Kubernetes brings one that reads maps as Go did before 1.18: the API server ends with the first custom resource.
  rm -r vendor/github.com/modern-go/reflect2
  cp -r "$reflect2" vendor/github.com/modern-go
  # kube-apiserver's description of its own interface is generated, and no part of the source.
  "$go" build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
  described="$(grep -rl --include='*.go' '^// +k8s:openapi-gen=' pkg staging/src | xargs -n 1 dirname | sort -u |
    sed -e '/_examples/d' -e '/sample-/d' -e 's|^pkg/|k8s.io/kubernetes/pkg/|' -e 's|^staging/src/||' | paste -sd ,)"
  "$work/openapi-gen" --output-file-base zz_generated.openapi --output-package k8s.io/kubernetes/pkg/generated/openapi \
    --go-header-file hack/boilerplate/boilerplate.generatego.txt --report-filename "$work/report" --input-dirs "$described"
  for package in client-go/pkg component-base; do
    package="k8s.io/kubernetes/vendor/k8s.io/$package/version"
    flags+=" -X $package.gitVersion=v$version -X $package.gitMajor=1 -X $package.gitMinor=20"
  done
  # The kubelet looks every minute for containers that stand in the way of a pod's end, and tells every ten seconds of such
  # an end. Tests wait for that.
  sed -i 's/ContainerGCPeriod = time.Minute/ContainerGCPeriod = time.Second/' pkg/kubelet/kubelet.go
  sed -i 's/syncPeriod = 10 \* time.Second/syncPeriod = time.Second/' pkg/kubelet/status/status_manager.go
  # With Docker in it, the kubelet waits five seconds for that.
  "$go" build -tags dockerless,providerless -ldflags "$flags" -o "$work/bin/" "${programs[@]/#/./cmd/}"
}

# Every pod has a container that does nothing but hold its namespaces.
pause_image() {
  cc -O2 -static -s -o "$work/pause" "$work/go/src/k8s.io/kubernetes/build/pause/linux/pause.c"
  tar -C "$work" -cf "$work/layer.tar" pause
  cat >"$work/config.json" <<JSON
{"architecture": "$(dpkg --print-architecture)", "os": "linux", "config": {"Entrypoint": ["/pause"]},
  "rootfs": {"type": "layers", "diff_ids": ["sha256:$(sha256sum "$work/layer.tar" | cut -d ' ' -f 1)"]}}
JSON
  echo '[{"Config": "config.json", "RepoTags": ["localhost/pause:1"], "Layers": ["layer.tar"]}]' >"$work/manifest.json"
  tar -C "$work" -cf "$work/bin/pause.tar" manifest.json config.json layer.tar
}

build() {
  install packages
  [ ! -d "$bin" ] || return 0
  install build_packages
  mkdir -p "$cache"
  # Inside the cache, so that the last step is a rename on one file system.
  work="$(mktemp -d "$cache/.build.XXXXXX")"
  trap end_build EXIT
  apt="$work/apt"
  mkdir "$work/bin"
  step "fetching the source of Kubernetes $version from Debian" fetch
  step "building it, which takes about five minutes on two cores" compile
  step "making the image of pods' first container" pause_image
  # Another run may have been quicker; its folder is as good.
  mv -T "$work/bin" "$bin" 2>/dev/null || [ -d "$bin" ]
  end_build
  trap - EXIT
}

end_build() {
  if [ ! -d "$bin" ]; then
    tail -n 20 "$work/log" >&2
    echo "kubernetes: the build failed; its last words are above" >&2
  fi
  rm -rf "$work"
}

# How a user of the token file reaches the API server.
kubeconfig() {
  cat <<YAML
apiVersion: v1
kind: Config
current-context: wattle
contexts: [{name: wattle, context: {cluster: wattle, user: "$1"}}]
clusters: [{name: wattle, cluster: {server: "https://$address:6443", certificate-authority: "$folder/tls/apiserver.crt"}}]
users: [{name: "$1", user: {token: "$2"}}]
YAML
}

# Writes all that the programs of the cluster read.
configure() {
  local user groups token
  mkdir "$folder/bin" "$folder/cni" "$folder/names"
  while read -r user groups; do
    token="$(openssl rand -hex 16)"
    echo "$token,$user,$user,$groups" >>"$folder/tokens"
    kubeconfig "$user" "$token" >"$folder/$user.kubeconfig"
  done <<USERS
admin system:masters
system:kube-controller-manager
system:kube-proxy
system:kube-scheduler
system:node:node system:nodes
USERS
  openssl genrsa -out "$folder/accounts.key" 2048 2>/dev/null

  # Root may lack SYS_RESOURCE, without which no container starts that is to be spared when memory runs out.
  cat >"$folder/containerd.toml" <<TOML
version = 2
root = "$folder/containerd"
state = "$folder/containerd-state"
[grpc]
address = "$socket"
[plugins."io.containerd.internal.v1.opt"]
path = "$folder/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:1"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "$folder/cni"
TOML
  cat >"$folder/cni/pods.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "pods", "plugins": [{
  "type": "ptp", "ipam": {"type": "host-local", "ranges": [[{"subnet": "$pods"}]], "routes": [{"dst": "0.0.0.0/0"}]}
}]}
JSON

  # kubectl would remember in the user's home what an earlier cluster at the same address had.
  printf '#!/bin/sh\nexec "%s" --cache-dir "%s" "$@"\n' "$bin/kubectl" "$folder/cache" >"$folder/bin/kubectl"
  chmod +x "$folder/bin/kubectl"

  # A disk or memory that is nearly full is the machine's business: no pod is evicted, and no image deleted.
  cat >"$folder/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $address
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupsPerQOS: false
clusterDNS: [$address]
clusterDomain: cluster.local
enforceNodeAllocatable: []
evictionHard: {imagefs.available: 0%, memory.available: 0%, nodefs.available: 0%, nodefs.inodesFree: 0%}
failSwapOn: false
healthzPort: 0
imageGCHighThresholdPercent: 100
resolvConf: $folder/resolv.conf
volumePluginDir: $folder/volume-plugins
YAML
  printf 'nameserver %s\nsearch svc.cluster.local cluster.local\n' "$address" >"$folder/resolv.conf"
}

# Becomes the node, whose control groups seem to be the machine's from the moment of the first unshare.
start_node() {
  enter_groups "$name"
  exec unshare --cgroup bash -c 'enter_groups "$name/node"
    exec unshare --mount --net --pid --fork --kill-child --mount-proc bash -c run_node'
}

# The first process of the node, in namespaces of its own, which ends when one of the others does.
run_node() {
  set -euo pipefail
  trap 'exit 1' TERM
  hide_machine
  connect

  start dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --pid-file= --log-facility=- --no-resolv --no-hosts \
    --listen-address="$address" --bind-interfaces --local=/#/ --hostsdir="$folder/names"
  start etcd --data-dir "$folder/etcd"
  start containerd --config "$folder/containerd.toml"
  start "$bin/kube-apiserver" --advertise-address="$address" --bind-address="$address" --cert-dir="$folder/tls" \
    --allow-privileged --authorization-mode=Node,RBAC --etcd-servers=http://127.0.0.1:2379 \
    --kubelet-preferred-address-types=InternalIP --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file="$folder/accounts.key" --service-account-signing-key-file="$folder/accounts.key" \
    --service-cluster-ip-range="$services" --token-auth-file="$folder/tokens"

  until ctr --address "$socket" --namespace k8s.io images import "$bin/pause.tar" >/dev/null 2>&1; do sleep 0.1; done
  # Written last of what the others need to know the API server.
  until [ -s "$folder/tls/apiserver.key" ]; do sleep 0.1; done
  start "$bin/kubelet" --config="$folder/kubelet.yaml" --kubeconfig="$folder/system:node:node.kubeconfig" \
    --cert-dir="$folder/tls" --container-runtime=remote --container-runtime-endpoint="unix://$socket" \
    --hostname-override=node --node-ip="$address" --root-dir="$folder/kubelet"
  until kubectl get --raw /readyz >/dev/null 2>&1; do sleep 0.1; done
  start "$bin/kube-controller-manager" --kubeconfig="$folder/system:kube-controller-manager.kubeconfig" \
    --bind-address=127.0.0.1 --controllers='*,-nodeipam,-route,-cloud-node-lifecycle,-service' \
    --flex-volume-plugin-dir="$folder/volume-plugins" --kube-api-burst=300 --kube-api-qps=200 --leader-elect=false \
    --port=0 --root-ca-file="$folder/tls/apiserver.crt" --service-account-private-key-file="$folder/accounts.key" \
    --use-service-account-credentials
  start "$bin/kube-scheduler" --kubeconfig="$folder/system:kube-scheduler.kubeconfig" --bind-address=127.0.0.1 --port=0 \
    --leader-elect=false
  # The limits of connections, of which it would set some, are the whole machine's.
  start "$bin/kube-proxy" --kubeconfig="$folder/system:kube-proxy.kubeconfig" --bind-address="$address" \
    --cluster-cidr="$pods" --conntrack-max-per-core=0 --conntrack-min=0 --conntrack-tcp-timeout-close-wait=0 \
    --conntrack-tcp-timeout-established=0 --healthz-bind-address=127.0.0.1:10256 --hostname-override=node \
    --iptables-min-sync-period=100ms --metrics-bind-address=127.0.0.1:10249 --proxy-mode=iptables
  start write_names
  # Before this the node is not ready, and the controller whose task it is waits ten seconds.
  until kubectl patch node node --patch '{"spec": {"podCIDR": "'"$pods"'"}}' >/dev/null 2>&1; do sleep 0.1; done
  wait
}

# Starts a program of the node, which ends with it.
start() {
  local name="${1##*/}"
  local log="$logs/$name.log"
  {
    "$@" >"$log" 2>&1 || true
    # Programs in Go end with traces of their threads; those of Kubernetes mark their last words with an F.
    echo "$name ended: $({ grep '^F[0-9]' "$log" || cat "$log"; } | tail -n 1)"
    kill -TERM 1
  } &
}

# Makes a control group for the cluster, and one below it for its processes, since version 2 wants none in between.
make_groups() {
  local hierarchy group file
  for hierarchy in $(hierarchies); do
    # Version 2 gives what the groups above have enabled.
    for file in $(cat "$hierarchy/cgroup.controllers" 2>/dev/null); do
      echo "+$file" >"$hierarchy/cgroup.subtree_control" || true
    done
    for group in "$hierarchy/$name" "$hierarchy/$name/node"; do
      mkdir "$group"
      # A new group of version 1 has neither processors nor memory.
      for file in cpuset.cpus cpuset.mems; do
        [ ! -e "$hierarchy/$file" ] || cat "$hierarchy/$file" >"$group/$file"
      done
    done
  done
}

enter_groups() {
  local hierarchy
  for hierarchy in $(hierarchies); do
    echo 0 >"$hierarchy/$1/cgroup.procs"
  done
}

# Covers what the programs write to outside of their own folders.
hide_machine() {
  local setting file hierarchy type options
  while read -r _ hierarchy type options _; do
    umount "$hierarchy"
    [ "$type" = cgroup2 ] && options=rw
    mount -t "$type" -o "$options" cgroup "$hierarchy"
  done < <(grep ' cgroup2\? ' /proc/mounts)
  mount --bind "$folder/resolv.conf" /etc/resolv.conf
  mount -t tmpfs tmpfs /run
  mount -t tmpfs tmpfs /var/lib
  mount --bind "$logs" /var/log
  # The kubelet sets these for the whole machine, kernel/panic among them. Here it finds them as it wants them.
  for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file="$(mktemp -p /run)"
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%=*}"
  done
}

connect() {
  ip link set lo up
  ip address add "$address/32" dev lo
  # kube-proxy rewrites the addresses of Services, but only of packets that have a route.
  ip route add "$services" dev lo
  echo 1 >/proc/sys/net/ipv4/ip_forward
}

# Writes the addresses of Services for the name server, again whenever an endpoint changes.
write_names() {
  while :; do
    kubectl get endpoints --all-namespaces --watch --output name | while read -r _; do
      while read -r -t 0.1 _; do :; done
      {
        kubectl get services --all-namespaces --output go-template='{{
          range .items}}{{$of := .metadata}}{{with .spec.clusterIP}}{{if ne . "None"}}{{
          .}} {{$of.name}}.{{$of.namespace}}.svc.cluster.local{{"\n"}}{{end}}{{end}}{{end}}'
        kubectl get endpoints --all-namespaces --selector service.kubernetes.io/headless --output go-template='{{
          range .items}}{{$of := .metadata}}{{range .subsets}}{{range .addresses}}{{
          .ip}} {{$of.name}}.{{$of.namespace}}.svc.cluster.local{{"\n"}}{{end}}{{end}}{{end}}'
      } >"$folder/names.new"
      mv "$folder/names.new" "$folder/names/services"
    done
  done
}

node_is_ready() {
  "${inside[@]}" kubectl get node node --output 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null |
    grep -q True && "${inside[@]}" kubectl get serviceaccount default >/dev/null 2>&1
}

end() {
  local status=$? hierarchy
  trap '' HUP INT TERM
  [ -z "$command" ] || kill "$command" 2>/dev/null || true
  if [ -n "$cluster" ] && ! kill -KILL "$cluster" 2>/dev/null; then
    echo "kubernetes: the cluster ended by itself: $(tail -n 1 "$logs/node.log")" >&2
    [ "$status" -ne 0 ] || status=1
  fi
  wait 2>/dev/null
  # Processes that the command has left behind are the last in the cluster's network.
  if [ -n "$network" ]; then
    { find /proc/[0-9]*/ns/net -lname "net:\[$network\]" || true; } 2>/dev/null | cut -d / -f 3 |
      xargs --no-run-if-empty kill -KILL 2>/dev/null || true
  fi
  for hierarchy in $(hierarchies); do
    # The last processes take a moment to end.
    for _ in $(seq 100); do
      [ -d "$hierarchy/$name" ] || break
      find "$hierarchy/$name" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
    done
  done
  rm -rf --one-file-system "$folder"
  if [ "$status" -eq 0 ]; then
    rm -rf "$logs"
  else
    echo "kubernetes: the logs of the cluster and its pods are in $logs" >&2
  fi
  exit "$status"
}

[ "$#" -gt 0 ] || fail "say what to run: scripts/kubernetes.sh COMMAND"
if [ "$1" = --possible ]; then
  [ -z "${CI:-}" ] || exit 0
  reason="$(impossible)"
  [ -z "$reason" ] || { echo "NOT RUN: the tests of Kubernetes, since $reason" >&2; exit 1; }
  exit 0
fi

reason="$(impossible)"
[ -z "$reason" ] || fail "$reason"
build
[ "$1" != --build ] || exit 0

folder="$(mktemp -d --tmpdir wattle-kubernetes.XXXXXX)"
logs="$(mktemp -d --tmpdir wattle-kubernetes-logs.XXXXXX)"
name="$(basename "$folder")"
socket="$folder/containerd.sock"
cluster=
network=
command=
configure

export PATH="$folder/bin:$PATH" KUBECONFIG="$folder/admin.kubeconfig" WATTLE_CTR="ctr --address $socket --namespace k8s.io"
export address bin folder logs name pods services socket
export -f connect enter_groups hide_machine hierarchies run_node start start_node write_names
trap end EXIT
make_groups
# The node ends with this script, however that ends.
setpriv --pdeathsig KILL bash -c start_node </dev/null >"$logs/node.log" 2>&1 &
cluster=$!

inside=(nsenter "--net=/proc/$cluster/ns/net")
deadline=$((SECONDS + 90))
until node_is_ready; do
  kill -0 "$cluster" 2>/dev/null || exit 1
  [ "$SECONDS" -lt "$deadline" ] || fail "the node is not ready after 90 s"
  sleep 0.1
done

network="$(stat --dereference --format %i "/proc/$cluster/ns/net")"
[ "$network" != "$(stat --dereference --format %i /proc/self/ns/net)" ] || network=

# In the background, since else the shell acts on no signal before it ends; with the signals back that this takes from it.
setpriv --pdeathsig TERM "${inside[@]}" env --default-signal=INT,QUIT "$@" <&0 &
command=$!
trap 'kill "$command"' HUP INT TERM
status=0
wait "$command" || status=$?
# A signal ends the waiting before it ends the command.
while kill -0 "$command" 2>/dev/null; do
  status=0
  wait "$command" || status=$?
done
exit "$status"
