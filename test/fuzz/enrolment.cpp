// What a stranger may send before it has a certificate, what a head may answer, and what people paste: of the
// first byte, what follows is a request (0), an answer (1), a refusal (2), a proof (3), a token (4) or the
// file of known tokens (5).

#include <kj/exception.h>

#include "actors/link/enrolment_wire.hpp"
#include "actors/link/join_token.hpp"
#include "test/fuzz/frame.hpp"

using namespace convoy;
using namespace convoy::fuzz;
using namespace convoy::actors;

namespace {

void read_request(const schema::FrameBytes& bytes) {
  const EnrolRequest request = read_enrol(bytes);
  demand(!request.node.empty() && request.node.size() <= enrol_text_bytes_max, "a name is short");
  demand(request.request.size() <= enrol_request_bytes_max, "a request is short");
  const EnrolRequest again = read_enrol(encode(request).bytes());
  demand(again.node == request.node && again.request == request.request, "a request reads back");
}

void read_refusal(const schema::FrameBytes& bytes) {
  const EnrolRefusal refusal = read_enrol_refused(bytes);
  demand(refusal.text.size() <= enrol_text_bytes_max, "a reason is short");
  for (const unsigned char c : refusal.text) demand(c >= ' ' && c != 127, "a reason is one printable line");
}

void read_texts(std::string_view text) {
  if (const auto token = actors::read_token(text))
    demand(actors::text_of(*token) == text, "a token reads back");
  const auto known = read_known_tokens(text);
  demand(known.size() <= tokens_max, "few tokens are kept");
  demand(read_known_tokens(actors::text_of(known)).size() == known.size(), "tokens read back");
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::span<const uint8_t> rest(data + 1, size - 1);
  if (data[0] >= 4) return read_texts(text_of(rest.data(), rest.size())), 0;
  const auto bytes = frame_of(rest);
  if (!bytes) return 0;
  return load_or_refuse([&] {
    try {
      if (data[0] == 0) read_request(bytes);
      if (data[0] == 1) read_enrolled(bytes);
      if (data[0] == 2) read_refusal(bytes);
      if (data[0] == 3)
        demand(!is_proved("verifier", EnrolEnd::machine, std::string(32, 'k'), bytes, bytes),
               "nobody guesses a mac");
    } catch (const kj::Exception&) {
      // Malformed messages: both ends refuse them.
    }
  });
}
