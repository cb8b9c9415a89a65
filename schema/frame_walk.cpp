#include "schema/frame_walk.hpp"

#include <capnp/dynamic.h>
#include <kj/exception.h>

namespace convoy::schema {

namespace {

using capnp::DynamicValue;
using Which = capnp::schema::Type::Which;

bool has_pointers(Which type) {
  return type == Which::STRUCT || type == Which::LIST || type == Which::TEXT || type == Which::DATA;
}

// Getting a text, a list or a struct checks its pointer; what is inside is checked by going there.
void walk(const DynamicValue::Reader& value) {
  if (value.getType() == DynamicValue::STRUCT) {
    const auto message = value.as<capnp::DynamicStruct>();
    for (const auto field : message.getSchema().getFields())
      if (has_pointers(field.getType().which()) && message.has(field)) walk(message.get(field));
  } else if (value.getType() == DynamicValue::LIST) {
    const auto list = value.as<capnp::DynamicList>();
    if (has_pointers(list.getSchema().whichElementType()))
      for (const auto element : list) walk(element);
  }
}

}  // namespace

std::optional<std::string> refuse_message(capnp::StructSchema schema, const FrameBytes& bytes) {
  try {
    capnp::FlatArrayMessageReader reader(kj::arrayPtr(reinterpret_cast<const capnp::word*>(bytes->data()),
                                                      bytes->size() / sizeof(capnp::word)),
                                         reader_options(bytes->size()));
    walk(reader.getRoot<capnp::DynamicStruct>(schema));
    return std::nullopt;
  } catch (const kj::Exception& e) {
    return std::string(e.getDescription().cStr());
  }
}

}  // namespace convoy::schema
