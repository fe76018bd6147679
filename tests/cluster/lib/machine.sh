# A machine, played by Linux namespaces. Sourced by ../cluster.
#
# A machine has a process 1 of its own, mounts of its own and the cluster's network. Everything that runs on it is in its process
# namespace, so that killing process 1 takes all of it, at once and nothing else, as a power cut would: no search for processes
# by name, no mount that outlives it. There is one machine `control` (etcd, API server, ... and the network namespace) and one
# per node, with a private /run, /var/lib and /var/log, so that each node uses the default paths of containerd and kubelet.
#
#   $STATE/machines/NAME/lock       held by process 1 as long as it lives: this is what "up" means
#                        init       process 1: "PID START-TIME" as the host sees it
#                        ready      its mounts are made
#                        COMPONENT  a component of it: "PID START-TIME" as the machine sees it
# shellcheck shell=bash

machine_up() { # machine_up NAME
  local lock=$STATE/machines/$1/lock
  [[ -e $lock ]] && ! flock --nonblock --shared "$lock" true
}

machine_init() { # machine_init NAME: prints the host's pid of process 1
  local pid start stat
  read -r pid start 2>/dev/null <"$STATE/machines/$1/init" || return 1
  read -ra stat 2>/dev/null <"/proc/$pid/stat" || return 1
  [[ ${stat[21]} == "$start" && ${stat[2]} != Z ]] && echo "$pid"
}

machine_start() { # machine_start NAME
  local name=$1 dir=$STATE/machines/$1 enter=()
  if machine_up "$name"; then
    await 30 "machine $name to start" "$LOGS/machines.log" test -e "$dir/ready"
    return
  fi
  rm -rf "$dir"; mkdir -p "$dir" "$LOGS"
  if [[ $name == control ]]; then
    enter=(unshare --net)
  else
    enter=(nsenter --net="/proc/$(machine_init control)/ns/net" unshare)
    mkdir -p "$LOGS/$name" "$STATE/nodes/$name/disk"
  fi
  detached "${enter[@]}" --mount --pid --fork --propagation private \
    bash "$HERE/lib/machine-init" "$name" "$dir" "$TOOLS" "$STATE/nodes/$name/disk" "$LOGS/$name" >>"$LOGS/machines.log" 2>&1
  await 30 "machine $name to start" "$LOGS/machines.log" test -e "$dir/ready"
}

machine_kill() { # machine_kill NAME: SIGKILL to all that runs on it; returns when the last of it is gone
  local pid
  if pid=$(machine_init "$1"); then
    kill -KILL "$pid" 2>/dev/null || true
    await 60 "machine $1 to end" "$LOGS/machines.log" machine_gone "$1" # process 1 ends last
  fi
  rm -rf "${STATE:?}/machines/$1"
}
machine_gone() { ! machine_init "$1" >/dev/null; }

machine_exec() { # machine_exec NAME CMD...: in its mounts, processes and network
  local pid
  pid=$(machine_init "$1") || die "machine $1 is not up"
  nsenter --target "$pid" --mount --pid --net -- "${@:2}"
}

# --- components: the programs that run on a machine --------------------------------------------------------------------

component_log() { # component_log MACHINE COMPONENT
  if [[ $1 == control ]]; then echo "$LOGS/$2.log"; else echo "$LOGS/$1/$2.log"; fi
}

component_start() { # component_start MACHINE COMPONENT CMD...
  local machine=$1 component=$2 pid
  component_up "$machine" "$component" && return
  pid=$(machine_init "$machine") || die "machine $machine is not up"
  # The shell writes its own pid and becomes the program: there is no moment in which the program runs unrecorded.
  # shellcheck disable=SC2016
  detached nsenter --target "$pid" --mount --pid --net -- \
    bash -c 'read -ra stat </proc/self/stat; echo "${stat[0]} ${stat[21]}" >&8; exec 8>&-; exec "$@"' "$component" "${@:3}" \
    8>"$STATE/machines/$machine/$component" >>"$(component_log "$machine" "$component")" 2>&1
}

component_stat() { # component_stat MACHINE COMPONENT: prints "PID STATE" as the machine sees it; fails when it does not run
  local init pid start stat
  init=$(machine_init "$1") || return 1
  read -r pid start 2>/dev/null <"$STATE/machines/$1/$2" || return 1
  read -ra stat 2>/dev/null <"/proc/$init/root/proc/$pid/stat" || return 1
  # Its first thread may have ended before the others: until they have, its ports are taken.
  [[ ${stat[21]} == "$start" && (${stat[2]} != Z || ${stat[19]} -gt 1) ]] && echo "$pid ${stat[2]}"
}
component_up() { component_stat "$1" "$2" >/dev/null; }
component_down() { ! component_up "$1" "$2"; }

component_signal() { # component_signal MACHINE COMPONENT SIGNAL
  local pid
  read -r pid _ < <(component_stat "$1" "$2") || die "$2 of $1 is not running"
  machine_exec "$1" bash -c "kill -$3 $pid"
}

detached() { # detached CMD...: in a session of its own, without this script's terminal, environment and lock
  env -i PATH="$TOOLS:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" HOME=/root setsid --fork "$@" </dev/null 9<&-
}
