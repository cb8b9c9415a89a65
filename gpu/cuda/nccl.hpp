#pragma once
// What we use of NCCL, found at run time: on a machine without it hidden states go through the hosts.
// Declared here as its binary interface has it since 2.14, so that building needs no header of it.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace convoy::cuda::nccl {

struct Communicator;  // theirs
struct UniqueId {
  std::byte bytes[128];
};
/// ncclResult_t, as far as we tell its values apart.
enum Result : int { success = 0, in_progress = 7 };
inline constexpr int type_of_bytes = 0;  // ncclChar

/// The begin of ncclConfig_t: a library takes of a longer one what it is told to be there, by size and
/// version.
struct Config {
  size_t size = sizeof(Config);
  uint32_t magic = 0xcafebeef;
  uint32_t version = 21400;
  int blocking = 0;  // calls go on in threads of the library's, and end when the communicator says so
};

struct Library {
  Result (*get_unique_id)(UniqueId*);
  Result (*init_rank)(Communicator**, int ranks, UniqueId, int rank, Config*);
  Result (*abort)(Communicator*);
  Result (*async_error)(Communicator*, Result*);
  Result (*send)(const void*, size_t count, int type, int peer, Communicator*, cudaStream_t);
  Result (*receive)(void*, size_t count, int type, int peer, Communicator*, cudaStream_t);
  const char* (*error_text)(Result);
};

/// Nothing if there is none here, or one before 2.14. It stays loaded.
const Library* find();

}  // namespace convoy::cuda::nccl
