# Sourced by the scripts beside it: where the repository is, how to speak, how to become root, how many jobs to run.
# Sets: root (the repository's folder, also the current one from here on).

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

step() { printf '\n== %s\n' "$*"; }
fail() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# One line that is overwritten on a terminal; elsewhere a line only when a tenth more is done. usage: progress PERCENT TEXT
progress_tenth=-1
progress() {
  if [[ -t 1 ]]; then
    printf '\r\e[K%3d %%  %.*s' "$1" 90 "$2"
  elif (($1 / 10 != progress_tenth)); then
    progress_tenth=$(($1 / 10))
    printf '%3d %%  %s\n' "$1" "$2"
  fi
}
progress_end() {
  [[ ! -t 1 ]] || printf '\r\e[K'
}

as_root() {
  if ((EUID == 0)); then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "needs root to run: $*; run this as root, or install sudo"
  fi
}

# A compiler of one of the large files takes up to 1.5 GB: as many jobs as cores, but only as memory allows, and only
# what this process's cgroup may use (a container's limits; version 2, or what is left of version 1).
job_memory_kb_max=1500000
cgroup_root=${CGROUP_ROOT:-/sys/fs/cgroup}
cgroup_self=${CGROUP_SELF:-/proc/self/cgroup}

# The smallest limit of a file from our cgroup up to the root, such as memory.max; nothing if there is none.
cgroup_least() { # FILE
  local path value least=
  path=$(sed -n 's/^0:://p' "$cgroup_self" 2>/dev/null | head -n 1)
  while :; do
    value=$(cut -d ' ' -f 1 "$cgroup_root$path/$1" 2>/dev/null) || value=
    if [[ $1 == cpu.max && -n $value && $value != max ]]; then  # "QUOTA PERIOD", in microseconds: cores, rounded up
      local period
      period=$(cut -d ' ' -f 2 "$cgroup_root$path/$1")
      value=$(((value + period - 1) / period))
    fi
    if [[ $value =~ ^[0-9]+$ ]] && { [[ -z $least ]] || ((value < least)); }; then least=$value; fi
    [[ -n $path && $path != / ]] || break
    path=${path%/*}
  done
  echo "$least"
}

jobs_by_memory() {
  local available_kb cores jobs limit used
  available_kb=$(awk '/^MemAvailable:/ {print $2}' "${MEMINFO:-/proc/meminfo}")
  limit=$(cgroup_least memory.max)
  if [[ -n $limit ]]; then
    used=$(cat "$cgroup_root$(sed -n 's/^0:://p' "$cgroup_self" | head -n 1)/memory.current" 2>/dev/null || echo 0)
    limit=$(((limit - used) / 1024))
    ((limit > available_kb)) || available_kb=$limit
  fi
  cores=$(nproc)
  limit=$(cgroup_least cpu.max)
  if [[ -n $limit ]] && ((limit < cores)); then cores=$limit; fi
  jobs=$((available_kb / job_memory_kb_max))
  ((jobs < cores)) || jobs=$cores
  ((jobs >= 1)) || jobs=1
  echo "$jobs"
}

# usage: build PRESET TARGET…; configures when needed, shows how far it is.
build() {
  local preset=$1 log
  shift
  mkdir -p build
  log=build/$preset-configure.log
  if [[ ! -f build/$preset/build.ninja ]]; then
    cmake --preset "$preset" >"$log" 2>&1 || { cat "$log" >&2; fail "cmake --preset $preset failed, see above"; }
  fi
  NINJA_STATUS="build $preset %p, %f of %t, %e s: " cmake --build --preset "$preset" -j "$(jobs_by_memory)" --target "$@"
}
