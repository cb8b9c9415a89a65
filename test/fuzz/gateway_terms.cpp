// What a head tells a gateway of another process, as a link that took the frame hands it on.

#include "gateway/gateway_terms.hpp"
#include "schema/frame_walk.hpp"
#include "test/fuzz/target.hpp"

using namespace convoy;
using namespace convoy::fuzz;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t word = sizeof(capnp::word);
  auto bytes = std::make_shared<schema::FrameBuffer>(size / word * word);
  std::copy_n(reinterpret_cast<const std::byte*>(data), bytes->size(), bytes->data());
  if (schema::refuse_frame({bytes->data(), bytes->size()})) return 0;
  if (schema::refuse_message<schema::GatewayTerms>(bytes)) return 0;
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
