#include "actors/link/enrolment_wire.hpp"

#include <openssl/crypto.h>

#include "actors/process/secret.hpp"
#include "model/error.hpp"

namespace convoy::actors {

namespace {

constexpr size_t token_id_bytes = 8;

capnp::Data::Reader as_data(const std::string& bytes) {
  return {reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()};
}

std::string text_of(capnp::Data::Reader data) {
  return {reinterpret_cast<const char*>(data.begin()), data.size()};
}

std::string mac(const std::string& verifier, EnrolEnd whose, const std::string& connection_key,
                const schema::FrameBytes& said) {
  // The key of a connection has always the same length, so that nothing can pretend to be a part of it.
  std::string message = "convoy-enrol-1:";
  message += static_cast<char>(whose);
  message += connection_key;
  message.append(reinterpret_cast<const char*>(said->data()), said->size());
  return hmac_sha256(verifier, message);
}

}  // namespace

schema::Frame<schema::Proof> prove_enrolment(const std::string& verifier, EnrolEnd whose,
                                             const std::string& connection_key,
                                             const schema::FrameBytes& said) {
  schema::FrameBuilder<schema::Proof> proof;
  proof->setMac(as_data(mac(verifier, whose, connection_key, said)));
  return std::move(proof).finish();
}

bool is_proved(const std::string& verifier, EnrolEnd whose, const std::string& connection_key,
               const schema::FrameBytes& said, const schema::FrameBytes& proof) {
  const std::string ours = mac(verifier, whose, connection_key, said);
  const schema::Frame<schema::Proof> frame(proof);
  const schema::Reading theirs(frame);
  return theirs->getMac().size() == ours.size() &&
         CRYPTO_memcmp(theirs->getMac().begin(), ours.data(), ours.size()) == 0;
}

schema::Frame<schema::Enrol> encode(const EnrolRequest& request) {
  schema::FrameBuilder<schema::Enrol> enrol(request.request.size() / sizeof(capnp::word) + 128);
  enrol->setToken(as_data(request.token_id));
  enrol->setNode(request.node);
  enrol->setRequest(as_data(request.request));
  enrol->setListen(request.listen);
  enrol->setStages(request.stages);
  enrol->setPipeline(request.pipeline);
  enrol->setHttp(request.http);
  return std::move(enrol).finish();
}

EnrolRequest read_enrol(const schema::FrameBytes& bytes) {
  const schema::Frame<schema::Enrol> frame(bytes);
  const schema::Reading enrol(frame);
  const auto require = [](bool holds, const char* what) {
    if (!holds) throw InputError(what, "what the machine said", "use one version of Convoy on all machines");
  };
  const auto is_text = [](const std::string& text) {
    return !text.empty() && text.size() <= enrol_text_bytes_max;
  };
  EnrolRequest request{text_of(enrol->getToken()),
                       enrol->getNode(),
                       text_of(enrol->getRequest()),
                       enrol->getListen(),
                       enrol->getStages(),
                       enrol->getPipeline(),
                       enrol->getHttp()};
  require(request.token_id.size() == token_id_bytes, "no token of 8 bytes");
  require(is_text(request.node), "no name, or too long a one");
  require(is_text(request.listen), "no address, or too long a one");
  require(request.request.size() <= enrol_request_bytes_max, "too long a request");
  require(request.stages <= enrol_stages_max, "too many stages");
  require(request.pipeline.size() <= enrol_text_bytes_max, "too long a name of a pipeline");
  require(request.http.size() <= enrol_text_bytes_max, "too long an address of its gateway");
  return request;
}

schema::Frame<schema::Enrolled> encode(const EnrolAnswer& answer) {
  schema::FrameBuilder<schema::Enrolled> enrolled((answer.certificate.size() + answer.authority.size() +
                                                   answer.revocations.size() + answer.configuration.size()) /
                                                      sizeof(capnp::word) +
                                                  64);
  enrolled->setCertificate(as_data(answer.certificate));
  enrolled->setAuthority(as_data(answer.authority));
  enrolled->setRevocations(as_data(answer.revocations));
  enrolled->setConfiguration(answer.configuration);
  return std::move(enrolled).finish();
}

EnrolAnswer read_enrolled(const schema::FrameBytes& bytes) {
  const schema::Frame<schema::Enrolled> frame(bytes);
  const schema::Reading enrolled(frame);
  return {text_of(enrolled->getCertificate()), text_of(enrolled->getAuthority()),
          text_of(enrolled->getRevocations()), enrolled->getConfiguration()};
}

schema::Frame<schema::EnrolRefused> encode(const EnrolRefusal& refusal) {
  schema::FrameBuilder<schema::EnrolRefused> refused;
  refused->setReason(refusal.reason);
  refused->setText(refusal.text.substr(0, enrol_text_bytes_max));
  return std::move(refused).finish();
}

EnrolRefusal read_enrol_refused(const schema::FrameBytes& bytes) {
  const schema::Frame<schema::EnrolRefused> frame(bytes);
  const schema::Reading refused(frame);
  std::string text = refused->getText();
  if (text.size() > enrol_text_bytes_max) text.resize(enrol_text_bytes_max);
  for (char& c : text)
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = ' ';
  return {refused->getReason(), text};
}

}  // namespace convoy::actors
