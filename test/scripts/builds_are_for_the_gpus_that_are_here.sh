#!/bin/bash
# scripts/lib.sh: what CMake is told of this machine's GPUs, and when a build is configured anew.
# usage: builds_are_for_the_gpus_that_are_here.sh REPOSITORY
set -euo pipefail
repository=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch"/{bin,convoy/scripts}
cp "$repository/scripts/lib.sh" "$scratch/convoy/scripts/"
cd "$scratch/convoy"
fails() { echo "$*"; exit 1; }
script() { # NAME LINES…
  printf '#!/bin/bash\n%s\n' "${@:2}" >"$scratch/bin/$1"
  chmod +x "$scratch/bin/$1"
}
gpus() { # COMPUTE CAPABILITIES…: what nvidia-smi says of GPUs that have these
  script nvidia-smi 'if [[ $1 == -L ]]; then echo "GPU 0: of the test"; else' "printf \"%s\\n\" $*" 'fi'
}
lib() { # COMMAND
  PATH="$scratch/bin:$PATH" NVCC=${nvcc-$scratch/bin/nvcc} bash -euo pipefail -c ". scripts/lib.sh; $1"
}
expect() { # OPTIONS WHAT
  local options
  options=$(lib 'build_for_gpus >/dev/null || true; echo "${cmake_options[@]}"')
  [[ $options == "$1" ]] || fails "$2: '$options', not '$1'"
}
script nvcc
gpus 9.0 9.0
expect "-DCONVOY_CUDA=ON -DCONVOY_CUDA_ARCHITECTURES=90a" "two H200s"
gpus 8.6 8.0 12.0
expect "-DCONVOY_CUDA=ON -DCONVOY_CUDA_ARCHITECTURES=80;86;120a" "GPUs of three kinds"
gpus 7.5
expect "-DCONVOY_CUDA=OFF" "one that is too old"
gpus 7.5 8.9
expect "-DCONVOY_CUDA=ON -DCONVOY_CUDA_ARCHITECTURES=89" "one of two is too old"
nvcc=$scratch/none expect "-DCONVOY_CUDA=OFF" "no nvcc"
nvcc=$scratch/none lib 'build_for_gpus || true' | grep -q 'nvcc is not' || fails "it does not say that nvcc is missing"
script nvidia-smi 'echo "No devices found."'
expect "-DCONVOY_CUDA=OFF" "no GPU"
script nvidia-smi 'echo "NVIDIA-SMI has failed because it couldn'\''t communicate with the NVIDIA driver."; exit 9'
expect "-DCONVOY_CUDA=OFF" "no driver"

# CMake is called for a build that is not configured as is wanted, and for no other.
script cmake 'echo "$@" >>calls'
calls() { # WANTED WHAT
  [[ $(grep -c -- --preset.*DCONVOY calls || true) == "$1" ]] || fails "$2: $(cat calls)"
}
gpus 9.0
lib 'build_for_gpus; build release convoy'
calls 1 "a fresh build"
mkdir -p build/release
touch build/release/build.ninja
printf 'CONVOY_CUDA:BOOL=ON\nCONVOY_CUDA_ARCHITECTURES:STRING=90a\n' >build/release/CMakeCache.txt
lib 'build_for_gpus; build release convoy'
calls 1 "a build that is right"
gpus 8.0
lib 'build_for_gpus; build release convoy'
calls 2 "another GPU"
lib 'build release convoy'
calls 2 "who does not ask for GPUs"
