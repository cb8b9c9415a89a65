// The file of API keys as somebody may have edited it; and what a client may show as a key.

#include "gateway/api_keys.hpp"
#include "test/fuzz/target.hpp"

using namespace convoy;
using namespace convoy::fuzz;
using namespace convoy::gateway;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text = text_of(data, size);
  return load_or_refuse([&] {
    const ApiKeys keys = read_keys(text, "keys");
    demand(keys.size() <= keys_max, "keys are counted");
    for (const ApiKey& key : keys) {
      demand(!key.tenant.empty() && key.tenant.size() <= 63, "a key has a tenant with a short name");
      demand(key.id.size() == 12 && key.digest.size() == 64, "ids and digests have a length");
    }
    demand(gateway::text_of(keys) == gateway::text_of(read_keys(gateway::text_of(keys), "keys")),
           "keys read back");
    demand(find_key(keys, text) == nullptr, "nobody guesses a key");
  });
}
