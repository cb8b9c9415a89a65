#!/bin/bash
# scripts/bundle: what it makes runs where there is nothing but it, glibc, /proc and /dev/null, and not where it was made.
# usage: bundle_runs_in_an_empty_root.sh REPOSITORY BUILD-FOLDER      77: this machine lets nobody make such a root
set -euo pipefail
repository=$1 build=$2
if [[ ${3:-} != inside ]]; then
  skip() { echo "skipped: $1"; exit 77; }
  command -v patchelf >/dev/null || skip "no patchelf; run scripts/install-packages --test"
  [[ -f $repository/models/SmolLM2-135M-Instruct.Q4_1.gguf ]] || skip "no default model; run scripts/fetch-model"
  own=(unshare --mount)
  ((EUID == 0)) || own=(unshare --mount --map-root-user)
  "${own[@]}" true 2>/dev/null || skip "no mount namespaces here"
  exec "${own[@]}" "$0" "$repository" "$build" inside
fi

scratch=$(mktemp -d)
root=$scratch/root bundle=$scratch/root/opt/a\ convoy
end() {
  local code=$?
  ((code == 0)) || { tail -n 20 "$bundle"/run/*.log || true; }
  # Nothing of a test outlives it.
  chroot "$root" "/opt/a convoy/bin/convoy" down --config "/opt/a convoy/cluster.conf" >/dev/null 2>&1 || true
  for place in "$root"/{proc,dev/null} "$bundle"/models/*.gguf; do umount -R "$place" 2>/dev/null || true; done
  rm -rf --one-file-system "$scratch"
}
trap end EXIT
fails() { echo "$*"; exit 1; }
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
convoy() { chroot "$root" "/opt/a convoy/bin/convoy" "$@"; }
config="/opt/a convoy/cluster.conf"

mkdir -p "$root"/{proc,dev,tmp,lib64,opt}
touch "$root/dev/null"
mount --rbind /proc "$root/proc"
mount --bind /dev/null "$root/dev/null"
# glibc, from where this machine's loader finds it.
while read -r file; do
  mkdir -p "$root$(dirname "$file")"
  cp -L "$file" "$root$file"
done < <({ ldd "$build/convoy"; ldd "$(command -v redis-server)"; } | grep -oE '/[^ ]*/(ld-linux-x86-64|lib(c|m|dl|rt|pthread|resolv))[.]so[.0-9]*' | sort -u)

runs() { # BUNDLE'S OPTIONS…
  rm -rf "$scratch/made" "$bundle"
  "$repository/scripts/bundle" "$scratch/made" --from "$build" "$@" | tee "$scratch/said"
  grep -qE 'made: [0-9]+ MiB, needs glibc 2' "$scratch/said" || fails "it does not say its size"
  mv "$scratch/made" "$bundle"
  touch "$bundle/models/SmolLM2-135M-Instruct.Q4_1.gguf"
  mount --bind "$repository/models/SmolLM2-135M-Instruct.Q4_1.gguf" "$bundle/models/SmolLM2-135M-Instruct.Q4_1.gguf"
  sed -i "s/127.0.0.1:7411/127.0.0.1:$(free_port)/; s/^port = 8080/port = $(free_port)/" "$bundle/cluster.conf"

  convoy --version | grep -q '^convoy ' || fails "no version"
  convoy check-config "$config"
  convoy up --config "$config"
  [[ -n $(convoy chat --config "$config" --temperature 0 "What is a convoy of ships?") ]] || fails "no answer"
  convoy status --config "$config" >"$scratch/status"
  convoy down --config "$config"
  umount "$bundle"/models/*.gguf
}

runs
grep -q '^redis *up' "$scratch/status" || fails "no redis of its own: $(cat "$scratch/status")"
[[ ! -f $build/libconvoy_cuda.so || -f $bundle/lib/libconvoy_cuda.so ]] || fails "no CUDA device"
cp -r "$bundle" "$scratch/full"
runs --slim
grep -q '^redis *off' "$scratch/status" || fails "a slim one has redis: $(cat "$scratch/status")"
[[ ! -e $bundle/bin/redis-server && ! -e $bundle/docs ]] || fails "a slim one has what it does without"
(($(du -s "$bundle" | cut -f1) < $(du -s "$scratch/full" | cut -f1))) || fails "a slim one is not smaller"

# What is there is not overwritten.
! "$repository/scripts/bundle" "$bundle" --from "$build" 2>"$scratch/said" || fails "overwrote what was there"
grep -q 'is there already' "$scratch/said" || fails "says: $(cat "$scratch/said")"
