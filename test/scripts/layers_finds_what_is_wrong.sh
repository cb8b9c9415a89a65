#!/bin/bash
# scripts/layers must complain about each of these includes, and about none of the good ones.
# usage: layers_finds_what_is_wrong.sh REPOSITORY
set -euo pipefail
layers=$1/scripts/layers
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch"/{model/{format,tokenizer,chat,checkpoint},gpu/cpu,actors/{config,link,stage},gateway,cli,schema}

expect() { # WANTED_EXIT FILE INCLUDE
  echo "#include $3" >"$scratch/$2"
  local got=0
  "$layers" "$scratch" >"$scratch/said" 2>&1 || got=$?
  if [[ $got != "$1" ]]; then
    echo "exit $got instead of $1 for: $2 includes $3"
    cat "$scratch/said"
    exit 1
  fi
  if ((got != 0)) && ! grep -q "^$2:1: " "$scratch/said"; then
    echo "$2:1 is not named for: $2 includes $3"
    exit 1
  fi
  rm "$scratch/$2"
}

expect 0 cli/a.cpp '"gateway/gateway.hpp"'
expect 0 gpu/a.cpp '"model/tensor.hpp"'
expect 0 actors/a.hpp '<caf/all.hpp>'
expect 0 actors/config/config_parser.cpp '<caf/detail/parser/read_ini.hpp>'
expect 1 model/a.cpp '"gpu/backend.hpp"'
expect 1 gpu/a.cpp '"actors/messages.hpp"'
expect 1 gpu/a.hpp '"schema/frame.hpp"'
expect 1 schema/a.cpp '"model/error.hpp"'
expect 1 actors/a.cpp '"gateway/gateway.hpp"'
expect 1 gateway/a.cpp '"gpu/engine.hpp"'
expect 1 gateway/a.cpp '"cli/commands.hpp"'
expect 1 model/a.cpp '<caf/all.hpp>'
expect 1 gpu/a.cpp '<boost/asio.hpp>'
expect 1 model/a.hpp '<hiredis/hiredis.h>'
expect 1 gateway/a.cpp '<caf/detail/parser/read_ini.hpp>'
expect 1 actors/a.cpp '"../gateway/session.hpp"'
# The rooms of model/ and actors/.
expect 0 model/format/a.cpp '"model/tensor.hpp"'
expect 0 model/checkpoint/a.cpp '"model/chat/chat_template.hpp"'
expect 0 gpu/cpu/a.cpp '"model/checkpoint/checkpoint.hpp"'
expect 0 actors/a.cpp '"actors/stage/step_codec.hpp"'
expect 0 actors/stage/a.hpp '"actors/messages.hpp"'
expect 1 model/a.hpp '"model/format/gguf.hpp"'
expect 1 model/format/a.cpp '"model/checkpoint/checkpoint.hpp"'
expect 1 model/tokenizer/a.cpp '"model/chat/chat_template.hpp"'
expect 1 model/chat/a.cpp '"gpu/backend.hpp"'
expect 1 actors/stage/a.cpp '"actors/link/link.hpp"'
expect 1 actors/link/a.cpp '"actors/stage/stage.hpp"'
# An empty folder is not a repository whose includes are fine.
! "$layers" "$scratch" >/dev/null 2>&1 || { echo "no includes at all passed"; exit 1; }
