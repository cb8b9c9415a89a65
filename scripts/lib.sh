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
# what this process's cgroup and those above it may use (a container's limits, in version 2).
job_memory_kb_max=1500000
cgroup_root=${CGROUP_ROOT:-/sys/fs/cgroup}
cgroups() {
  local path
  path=$(sed -n 's/^0:://p' "${CGROUP_SELF:-/proc/self/cgroup}" 2>/dev/null | head -n 1)
  while :; do
    echo "$cgroup_root${path%/}"
    [[ -n $path && $path != / ]] || break
    path=${path%/*}
  done
}

jobs_by_memory() {
  local available_kb cores jobs group quota period limit used left_kb
  available_kb=$(awk '/^MemAvailable:/ {print $2}' "${MEMINFO:-/proc/meminfo}")
  cores=$(nproc)
  while read -r group; do
    if read -r limit 2>/dev/null <"$group/memory.max" && [[ $limit =~ ^[0-9]+$ ]]; then
      used=$(cat "$group/memory.current" 2>/dev/null || echo 0)  # with files that can be dropped, which are free
      used=$((used - $(sed -n 's/^inactive_file //p' "$group/memory.stat" 2>/dev/null | grep . || echo 0)))
      left_kb=$(((limit - used) / 1024))
      ((left_kb > available_kb)) || available_kb=$left_kb
    fi
    if read -r quota period 2>/dev/null <"$group/cpu.max" && [[ $quota =~ ^[0-9]+$ ]]; then
      limit=$(((quota + period - 1) / period))
      ((limit > cores)) || cores=$limit
    fi
  done < <(cgroups)
  jobs=$((available_kb / job_memory_kb_max))
  ((jobs < cores)) || jobs=$cores
  ((jobs >= 1)) || jobs=1
  echo "$jobs"
}

# What CMake is told when a build is configured, beside its preset.
cmake_options=()

# Sets cmake_options: libconvoy_cuda.so for the GPUs that are here. False: for none, because there are none, or what they
# need is missing, which is said.
build_for_gpus() {
  local capabilities capability architectures=
  cmake_options=(-DCONVOY_CUDA=OFF)
  nvidia-smi -L 2>/dev/null | grep -q '^GPU ' || return 1
  if [[ ! -x ${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)} ]]; then
    echo "A GPU is here, but nvcc is not: without CUDA's toolkit Convoy computes on the CPU."
    return 1
  fi
  capabilities=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | sort -uV)
  for capability in $capabilities; do
    capability=${capability/./}
    ((capability >= 80)) || { echo "A GPU of compute capability $capability is too old: Convoy needs 80."; continue; }
    # From 90 on an architecture has instructions of its own, which the next one need not have: "a".
    architectures+=${architectures:+;}$capability$( ((capability < 90)) || echo a)
  done
  [[ -n $architectures ]] || return 1
  cmake_options=(-DCONVOY_CUDA=ON "-DCONVOY_CUDA_ARCHITECTURES=$architectures")
}

is_configured() { # PRESET: and as cmake_options say
  local option
  [[ -f build/$1/build.ninja ]] || return 1
  for option in "${cmake_options[@]#-D}"; do
    grep -qE "^${option%%=*}:[A-Z]+=${option#*=}\$" "build/$1/CMakeCache.txt" || return 1
  done
}

# usage: build PRESET TARGET…; configures when needed, shows how far it is.
build() {
  local preset=$1 log
  shift
  mkdir -p build
  log=build/$preset-configure.log
  if ! is_configured "$preset"; then
    cmake --preset "$preset" "${cmake_options[@]}" >"$log" 2>&1 ||
      { cat "$log" >&2; fail "cmake --preset $preset failed, see above"; }
  fi
  NINJA_STATUS="build $preset %p, %f of %t, %e s: " cmake --build --preset "$preset" -j "$(jobs_by_memory)" --target "$@"
}
