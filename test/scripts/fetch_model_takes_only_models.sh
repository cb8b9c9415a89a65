#!/bin/bash
# scripts/fetch-model with a local path: what it links, and what it refuses with a reason. Fetches nothing.
# usage: fetch_model_takes_only_models.sh REPOSITORY
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/convoy/scripts" "$scratch/mine/checkpoint" "$scratch/mine/empty"
cp "$1"/scripts/{fetch-model,lib.sh,default-model.sha256} "$scratch/convoy/scripts/"
fetch=$scratch/convoy/scripts/fetch-model
models=$scratch/convoy/models
cd "$scratch/mine"

refused() { # WORDS ARGUMENTS…
  local words=$1
  shift
  if "$fetch" "$@" >"$scratch/said" 2>&1; then
    echo "accepted: $*"
    exit 1
  fi
  grep -q -- "$words" "$scratch/said" || { echo "no '$words' in:"; cat "$scratch/said"; exit 1; }
}

printf 'GGUF and more' >small.gguf
"$fetch" small.gguf
[[ $(readlink "$models/small.gguf") == "$scratch/mine/small.gguf" ]]
"$fetch" small.gguf # again: nothing to do
echo '{}' >checkpoint/config.json
refused 'no \*.safetensors' checkpoint
touch checkpoint/model.safetensors
"$fetch" ./checkpoint/
[[ -f $models/checkpoint/config.json ]]


# As a hub's cache has it: the name is the link's, not the blob's.
mkdir -p cache/blobs cache/snapshots/c0ffee
printf 'GGUF blob' >cache/blobs/b10b
ln -s ../../blobs/b10b cache/snapshots/c0ffee/model.gguf
"$fetch" cache/snapshots/c0ffee/model.gguf
[[ $(readlink "$models/model.gguf") == "$scratch/mine/cache/blobs/b10b" && ! -e $models/b10b ]]
"$fetch" cache/snapshots/c0ffee/model.gguf
ln -s checkpoint renamed
"$fetch" renamed
[[ $(readlink "$models/renamed") == "$scratch/mine/checkpoint" ]]

# Characters that mean something to a shell are part of a name.
for odd in 'a[b]' 'a*' 'a\b' 'a [1]' '-x'; do
  mkdir -- "$odd"
  cp checkpoint/* "./$odd/"
  "$fetch" "./$odd"
  [[ -f $models/$odd/model.safetensors ]]
done

# Any part of a GGUF file brings all of them.
for number in 1 2 3; do printf 'GGUF' >"split-0000$number-of-00003.gguf"; done
"$fetch" split-00002-of-00003.gguf | grep -q 'convoy up --model models/split-00002-of-00003.gguf'
[[ -L $models/split-00001-of-00003.gguf && -L $models/split-00003-of-00003.gguf ]]
rm split-00003-of-00003.gguf "$models"/split-*
refused 'split-00003-of-00003.gguf: no such file' split-00001-of-00003.gguf
[[ ! -e $models/split-00001-of-00003.gguf ]]
printf 'PK..' >split-00003-of-00003.gguf
refused 'split-00003-of-00003.gguf: not a GGUF file' split-00001-of-00003.gguf

refused 'no such file' missing.gguf
refused 'no config.json' empty
printf 'PK..' >zip.gguf
refused 'not a GGUF file' zip.gguf
cp small.gguf SmolLM2-135M-Instruct.Q4_1.gguf
refused 'its SHA-256 is not b179c952' SmolLM2-135M-Instruct.Q4_1.gguf
refused 'at most one argument' a b
# A damaged default model is neither used nor overwritten.
cp small.gguf "$models/SmolLM2-135M-Instruct.Q4_1.gguf"
refused 'is damaged'
echo mine >"$models/zip2.gguf"
printf 'GGUF' >zip2.gguf
refused 'is not a link' zip2.gguf
