// What a head tells a gateway of another process, as a link that took the frame hands it on.

#include "gateway/gateway_terms.hpp"
#include "test/fuzz/frame.hpp"

using namespace convoy;
using namespace convoy::fuzz;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = frame_of_message<schema::GatewayTerms>(data, size);
  if (!bytes) return 0;
  return load_or_refuse([&] {
    const gateway::GatewayTerms terms = gateway::decode(schema::Frame<schema::GatewayTerms>(bytes));
    demand(!terms.models.empty(), "a gateway serves something");
    for (const gateway::ModelTerms& model : terms.models)
      demand(model.context_tokens > 0 && model.vocab > 0, "a model has a context and a vocabulary");
    const gateway::GatewayTerms again = gateway::decode(gateway::encode(terms));
    demand(gateway::go_on(terms, again) && gateway::go_on(again, terms), "terms read back");
    demand(gateway::all_digests_known(terms) == gateway::all_digests_known(again), "and their digests");
  });
}
