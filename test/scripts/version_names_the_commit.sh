#!/bin/bash
# model/version.cmake: the commit of a checkout, and "unknown" elsewhere, also in a folder inside of another's checkout.
# usage: version_names_the_commit.sh REPOSITORY CONVOY
set -euo pipefail
repository=$1 convoy=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
version_of() { # FOLDER
  cmake -DSOURCE="$1" -DVERSION=1.2.3 -DINPUT="$repository/model/version.cpp.in" -DOUTPUT="$scratch/version.cpp" \
    -P "$repository/model/version.cmake"
  sed -n 's/.*commit() { return "\(.*\)".*/\1/p' "$scratch/version.cpp"
}
expect() { [[ $2 == $1 ]] || { echo "$3: '$2' is not like '$1'"; exit 1; }; }
git init -q "$scratch/checkout"
git -C "$scratch/checkout" -c user.name=x -c user.email=x@x commit -q --allow-empty -m x
commit=$(git -C "$scratch/checkout" rev-parse --short=12 HEAD)
expect "$commit" "$(version_of "$scratch/checkout")" "a checkout"
git -C "$scratch/checkout" tag v9
expect "$commit" "$(version_of "$scratch/checkout")" "a tag is no commit"
mkdir "$scratch/checkout/unpacked"
expect unknown "$(version_of "$scratch/checkout/unpacked")" "a tarball unpacked in another's checkout"
expect unknown "$(version_of "$scratch")" "no checkout"
grep -q 'version() { return "1.2.3"' "$scratch/version.cpp" || { echo "no version"; exit 1; }
touch -d '1 hour ago' "$scratch/version.cpp"
before=$(stat -c %Y "$scratch/version.cpp")
version_of "$scratch" >/dev/null
[[ $(stat -c %Y "$scratch/version.cpp") == "$before" ]] || { echo "written although nothing changed"; exit 1; }
expect "convoy * (*)" "$("$convoy" --version)" "convoy --version"
