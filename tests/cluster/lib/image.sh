# Images without a builder, and how nodes get them. Sourced by ../cluster.
#
# The cluster pulls nothing: an image is a tar (as `docker save` writes it) that is imported into every node's containerd.
# $STATE/images keeps one tar per image name, for nodes that come later.
# shellcheck shell=bash

make_image() { # make_image NAME:TAG OUT.tar [options] ENTRY...: see usage() of ../cluster
  local name=$1 out=$2 user=65532 workdir=/ entrypoint=() words=() environment=('"PATH=/usr/local/bin:/usr/bin:/bin"') modes=()
  local entry path source work layer config
  shift 2
  [[ $name == */*:* ]] || die "an image needs a name such as konductor.local/app:1, not '$name'"
  work=$(mktemp -d); BUILDING=$work
  mkdir "$work/root" "$work/image"
  while (($#)); do
    entry=$1; shift
    case $entry in
      --entrypoint) entrypoint+=("$(json "$1")"); shift; continue ;;
      --cmd) words+=("$(json "$1")"); shift; continue ;;
      --env) environment+=("$(json "$1")"); shift; continue ;;
      --user) user=$1; shift; continue ;;
      --workdir) workdir=$1; shift; continue ;;
      /*/=*) # a folder and its mode
        path=${entry%%/=*}
        mkdir -p "$work/root$path"
        modes+=("${entry#*/=}" "$work/root$path") ;;
      /*@=*) # a symbolic link
        path=${entry%%@=*}
        mkdir -p "$work/root${path%/*}"
        ln -s "${entry#*@=}" "$work/root$path" ;;
      /*=*) # a file
        path=${entry%%=*} source=${entry#*=}
        [[ -f $source ]] || die "no such file: $source"
        mkdir -p "$work/root${path%/*}"
        cp -L "$source" "$work/root$path"
        modes+=("$([[ -x $source ]] && echo 755 || echo 644)" "$work/root$path") ;;
      *) die "expected /PATH=FILE, /PATH@=TARGET or /PATH/=MODE, not '$entry'" ;;
    esac
  done
  find "$work/root" -type d -exec chmod 755 {} +
  for ((i = 0; i < ${#modes[@]}; i += 2)); do chmod "${modes[i]}" "${modes[i + 1]}"; done

  # The same input makes the same bytes: names sorted, no times, no owners.
  local tar=(tar --create --format=gnu --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner)
  "${tar[@]}" --directory "$work/root" --file "$work/image/layer.tar" .
  layer=$(sha256sum <"$work/image/layer.tar") layer=${layer%% *}
  printf '{"architecture":"%s","os":"linux","created":"1970-01-01T00:00:00Z","config":{"User":%s,"WorkingDir":%s,"Env":[%s],"Entrypoint":[%s],"Cmd":[%s]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[]}' \
    "$(architecture)" "$(json "$user")" "$(json "$workdir")" "$(comma "${environment[@]}")" "$(comma "${entrypoint[@]}")" "$(comma "${words[@]}")" "$layer" \
    >"$work/config.json"
  config=$(sha256sum <"$work/config.json") config=${config%% *}
  mv "$work/config.json" "$work/image/$config.json"
  printf '[{"Config":"%s.json","RepoTags":[%s],"Layers":["layer.tar"]}]' "$config" "$(json "$name")" >"$work/image/manifest.json"
  chmod 644 "$work/image"/*
  "${tar[@]}" --directory "$work/image" --file "$out.$$" manifest.json "$config.json" layer.tar
  mv "$out.$$" "$out"
  rm -rf "$work"; BUILDING=
}

json() { local s=${1//\\/\\\\}; printf '"%s"' "${s//\"/\\\"}"; }
comma() { local IFS=,; echo "$*"; }
architecture() { case $(uname -m) in x86_64) echo amd64 ;; aarch64) echo arm64 ;; *) uname -m ;; esac; }

own_images() { # the two images that every cluster has: the Pods' sandbox, and a sample workload
  local applets=() applet scratch=$IMAGES/.etc
  mkdir -p "$scratch"
  make_image "$PAUSE_IMAGE" "$IMAGES/$(image_file "$PAUSE_IMAGE")" --entrypoint /pause /pause="$TOOLS/pause"
  printf 'root:x:0:0:root:/:/bin/sh\nnonroot:x:65532:65532:nonroot:/tmp:/bin/sh\n' >"$scratch/passwd"
  printf 'root:x:0:\nnonroot:x:65532:\n' >"$scratch/group"
  for applet in $(/bin/busybox --list); do
    [[ $applet == busybox ]] || applets+=("/bin/$applet@=busybox")
  done
  make_image "$SAMPLE_IMAGE" "$IMAGES/$(image_file "$SAMPLE_IMAGE")" --cmd sh /bin/busybox=/bin/busybox "${applets[@]}" \
    /etc/passwd="$scratch/passwd" /etc/group="$scratch/group" /tmp/=1777
}

image_file() { echo "${1//[\/:]/_}.tar"; }

image_keep() { # image_keep TAR: prints the name of the kept copy
  local tag file
  [[ -r $1 ]] || die "no such file: $1"
  tag=$(tar --extract --to-stdout --file "$1" manifest.json 2>/dev/null | grep -oE '"RepoTags" *: *\[ *"[^"]+' | head -1 | grep -oE '[^"]+$') ||
    tag=$(sha256sum <"$1" | cut -c1-16)
  file=$(image_file "$tag")
  cp "$1" "$IMAGES/$file.$$"
  mv "$IMAGES/$file.$$" "$IMAGES/$file"
  echo "$file"
}

images_import() { # images_import NODE: what it does not have yet
  local file sum loaded=$STATE/nodes/$1/loaded
  mkdir -p "$loaded"
  for file in "$IMAGES"/*.tar; do
    sum=$(sha256sum <"$file")
    [[ $(cat "$loaded/${file##*/}" 2>/dev/null) == "$sum" ]] && continue
    machine_exec "$1" ctr --address /run/containerd/containerd.sock --namespace k8s.io images import - <"$file" >>"$LOGS/$1/images.log" 2>&1 ||
      fail "importing ${file##*/} into $1 failed" "$LOGS/$1/images.log"
    echo "$sum" >"$loaded/${file##*/}"
  done
}
