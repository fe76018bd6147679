# The programs: Kubernetes, etcd and helm built from Go modules, containerd and the rest from Debian packages. Sourced by ../cluster.
#
# The built ones live in $CACHE/tools-KEY, where KEY is a hash of everything that they are made from; a folder of that name is
# complete, because it gets the name last.
# shellcheck shell=bash

BUILD_FLAGS=(-trimpath -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$KUBERNETES_VERSION -X k8s.io/component-base/version.gitTreeState=clean")

# command that is needed -> the Debian package that has it
declare -A PACKAGES=([containerd]=containerd [runc]=runc [nft]=nftables [ip]=iproute2 [/usr/lib/cni/ptp]=containernetworking-plugins
  [openssl]=openssl [unshare]=util-linux [/bin/busybox]=busybox-static)

tools_folder() {
  local key
  command -v go >/dev/null || die "Go 1.26 or newer is needed to build the tools, and there is no go in PATH"
  key=$({ go env GOVERSION GOARCH; echo "${BUILD_FLAGS[*]}"; cd "$HERE/tools" && cat */go.mod */go.sum pause/main.go 2>/dev/null || true; } | sha256sum)
  echo "$CACHE/tools-${key:0:16}"
}

tools_in_use() { readlink "$STATE/tools" || tools_folder; } # what the cluster runs, even when the checkout wants others now

tools_build() { # sets TOOLS; builds what is missing
  TOOLS=$(tools_folder)
  [[ -d $TOOLS ]] && return
  local work log=$CACHE/build.log modules total
  mkdir -p "$CACHE"
  find "$CACHE" -maxdepth 1 -name 'building-*' -mtime +1 -exec rm -rf {} + # of a build that was killed
  work=$(mktemp -d "$CACHE/building-XXXXXX")
  BUILDING=$work # removed by leave() when this is interrupted
  : >"$log"
  say "building Kubernetes $KUBERNETES_VERSION, etcd and helm from source: 9 to 14 minutes on 2 cores the first time, kept in $CACHE"
  say "  log: $log"
  export CGO_ENABLED=0 GOFLAGS="${GOFLAGS:--buildvcs=false} -mod=readonly"
  for modules in kubernetes helm; do
    say "fetching the Go modules of $modules"
    (cd "$HERE/tools/$modules" && exec go list -deps tool) >"$work/.packages" 2>>"$log" &
    child_wait $! || fail "fetching the Go modules of $modules failed" "$log"
    total=$(wc -l <"$work/.packages")
    (cd "$HERE/tools/$modules" && exec nice go build -v -o "$work/" "${BUILD_FLAGS[@]}" tool) \
      > >("$HERE/progress" "$total" "building $modules" --match '^[^[:space:]:]+$' --log "$log") 2>&1 &
    child_wait $! || fail "building $modules failed" "$log"
  done
  (cd "$HERE/tools/pause" && go build -trimpath -ldflags '-s -w' -o "$work/pause" .) || die "building pause failed"
  mv "$work/server" "$work/etcd"
  rm "$work/.packages"
  chmod 755 "$work"
  mv -T "$work" "$TOOLS" 2>/dev/null || { [[ -d $TOOLS ]] && rm -rf "$work"; } # another build may have been faster
  BUILDING=
  find "$CACHE" -maxdepth 1 -name 'tools-*' -mtime +30 ! -path "$TOOLS" -exec rm -rf {} +
}

packages_missing() {
  local command
  for command in "${!PACKAGES[@]}"; do
    if ! command -v "$command" >/dev/null; then echo "${PACKAGES[$command]}"; fi
  done | sort -u
  # A busybox that is linked to libraries cannot be an image by itself.
  if [[ -e /bin/busybox ]] && ! is_static /bin/busybox; then echo busybox-static; fi
}

packages_install() {
  local missing
  mapfile -t missing < <(packages_missing)
  ((${#missing[@]})) || return 0
  if ((EUID)) || ! command -v apt-get >/dev/null; then
    die "these Debian packages are missing: ${missing[*]} (as root, on Debian, this command installs them itself)"
  fi
  say "installing Debian packages: ${missing[*]}"
  {
    apt-get update &&
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}"
  } >"$LOGS/apt.log" 2>&1 || fail "installing packages failed" "$LOGS/apt.log"
}

is_static() { ! grep -qaE '/lib(64)?/ld-[a-z0-9.-]+' "$1"; } # no program interpreter inside
