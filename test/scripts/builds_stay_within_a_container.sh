#!/bin/bash
# scripts/lib.sh: how many compilers run at once, by memory and processors, of the machine and of a cgroup.
# usage: builds_stay_within_a_container.sh REPOSITORY
set -euo pipefail
repository=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/cgroup/box/inner" "$scratch/bin"
echo "MemAvailable: 64000000 kB" >"$scratch/meminfo"
echo "0::/box/inner" >"$scratch/self"
printf '#!/bin/sh\necho 16\n' >"$scratch/bin/nproc"
chmod +x "$scratch/bin/nproc"

expect() { # JOBS WHAT
  local jobs
  jobs=$(cd "$repository" && PATH="$scratch/bin:$PATH" CGROUP_ROOT="$scratch/cgroup" CGROUP_SELF="$scratch/self" \
    MEMINFO="$scratch/meminfo" bash -c '. scripts/lib.sh && jobs_by_memory')
  [[ $jobs == "$1" ]] || { echo "$2: $jobs jobs, not $1"; exit 1; }
}
expect 16 "a machine of 16 cores without limits"
echo "MemAvailable: 4000000 kB" >"$scratch/meminfo"
expect 2 "little memory"
echo "MemAvailable: 64000000 kB" >"$scratch/meminfo"
echo "max 100000" >"$scratch/cgroup/box/inner/cpu.max"
echo "250000 100000" >"$scratch/cgroup/box/cpu.max"
expect 3 "two and a half processors for the cgroup above"
echo max >"$scratch/cgroup/box/inner/memory.max"
echo $((4 << 30)) >"$scratch/cgroup/box/memory.max"
expect 2 "4 GiB for the cgroup above"
echo $((2 << 30)) >"$scratch/cgroup/box/inner/memory.max"
echo $((1 << 30)) >"$scratch/cgroup/box/inner/memory.current"
expect 1 "1 GiB left: one compiler all the same"
echo $((16 << 30)) >"$scratch/cgroup/box/memory.max"
echo $((16 << 30)) >"$scratch/cgroup/box/inner/memory.max"
echo $((15 << 30)) >"$scratch/cgroup/box/inner/memory.current"
echo "inactive_file $((12 << 30))" >"$scratch/cgroup/box/inner/memory.stat"
expect 3 "13 GiB left, because files can be dropped; three processors"
