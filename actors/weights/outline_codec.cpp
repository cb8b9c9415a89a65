#include "actors/weights/outline_codec.hpp"

#include "model/error.hpp"

namespace convoy::actors {

namespace {

template <class Bytes>
std::string string_of(const Bytes& bytes) {
  return {reinterpret_cast<const char*>(bytes.begin()), bytes.size()};
}

}  // namespace

schema::Frame<schema::ModelOutline> encode(const model::WeightOutline& outline) {
  constexpr size_t words_each_file = 32;
  size_t words = 64;
  for (const auto& file : outline.files) {
    words += words_each_file;
    for (const auto& part : file.parts) words += part.bytes.size() / sizeof(capnp::word) + words_each_file;
  }
  schema::FrameBuilder<schema::ModelOutline> frame(words);
  frame->setDigest(outline.digest);
  frame->setName(outline.name);
  frame->setGguf(outline.gguf);
  frame->setTiedHead(outline.tied_head);
  auto files = frame->initFiles(static_cast<unsigned>(outline.files.size()));
  for (unsigned f = 0; f < files.size(); ++f) {
    const auto& file = outline.files[f];
    files[f].setName(file.name);
    files[f].setBytes(file.bytes);
    auto parts = files[f].initParts(static_cast<unsigned>(file.parts.size()));
    for (unsigned p = 0; p < parts.size(); ++p) {
      parts[p].setBegin(file.parts[p].begin);
      const std::string& bytes = file.parts[p].bytes;
      parts[p].setBytes(kj::arrayPtr(reinterpret_cast<const capnp::byte*>(bytes.data()), bytes.size()));
    }
  }
  return std::move(frame).finish();
}

model::WeightOutline decode(const schema::Frame<schema::ModelOutline>& frame) {
  const schema::Reading read(frame);
  model::WeightOutline outline{string_of(read->getDigest()), string_of(read->getName()), read->getGguf(),
                               read->getTiedHead()};
  if (read->getFiles().size() > model::outline_files_max)
    throw InputError("has " + std::to_string(read->getFiles().size()) + " files", "the outline of a model",
                     "run one version of Convoy on all machines");
  for (const auto file : read->getFiles()) {
    auto& to = outline.files.emplace_back(
        model::WeightOutline::File{string_of(file.getName()), file.getBytes(), {}});
    for (const auto part : file.getParts()) to.parts.push_back({part.getBegin(), string_of(part.getBytes())});
  }
  return outline;
}

}  // namespace convoy::actors
