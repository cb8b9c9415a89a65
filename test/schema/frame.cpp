// Frames: what is frozen can be read back, and bytes that are no frame are refused with a reason.

#include "schema/frame.hpp"

#include <boost/test/unit_test.hpp>
#include <cstring>

namespace schema = convoy::schema;

namespace {

schema::Frame<schema::Generate> sample(size_t words_hint, unsigned tokens) {
  schema::FrameBuilder<schema::Generate> builder(words_hint);
  builder->setRequestId("req-1");
  auto list = builder->initTokens(tokens);
  for (unsigned i = 0; i < tokens; ++i) list.set(i, static_cast<int>(i));
  return std::move(builder).finish();
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_frozen_message_reads_back_whatever_the_size_hint) {
  for (size_t hint : {1, 64, 4096}) {
    const auto frame = sample(hint, 1000);
    BOOST_CHECK(!schema::refuse_frame({frame.bytes()->data(), frame.bytes()->size()}));
    const schema::Reading message(frame);
    BOOST_REQUIRE_EQUAL(message->getTokens().size(), 1000u);
    BOOST_CHECK_EQUAL(message->getTokens()[999], 999);
    BOOST_CHECK_EQUAL(message->getRequestId().cStr(), "req-1");
  }
}

BOOST_AUTO_TEST_CASE(frame_data_is_aligned_for_vector_loads) {
  BOOST_CHECK_EQUAL(reinterpret_cast<uintptr_t>(sample(64, 3).bytes()->data()) % 64, 0u);
}

BOOST_AUTO_TEST_CASE(bytes_that_are_no_single_segment_are_refused) {
  const auto frame = sample(64, 10);
  std::vector<std::byte> bytes(frame.bytes()->data(), frame.bytes()->data() + frame.bytes()->size());
  auto refused = [](std::span<const std::byte> b) { return schema::refuse_frame(b).has_value(); };
  BOOST_CHECK(!refused(bytes));
  BOOST_CHECK(refused({}));
  BOOST_CHECK(refused({bytes.data(), 8}));
  BOOST_CHECK(refused({bytes.data(), bytes.size() - 1}));
  BOOST_CHECK(refused({bytes.data(), bytes.size() - 8}));
  auto segments = bytes;
  segments[0] = std::byte{1};
  BOOST_CHECK(refused(segments));
  auto huge = bytes;
  std::memset(huge.data() + 4, 0xff, 4);
  BOOST_CHECK(refused(huge));
}

BOOST_AUTO_TEST_CASE(a_pointer_out_of_bounds_throws_when_it_is_read) {
  const auto frame = sample(64, 10);
  auto buffer = std::make_shared<schema::FrameBuffer>(frame.bytes()->size());
  std::memcpy(buffer->data(), frame.bytes()->data(), buffer->size());
  std::memset(buffer->data() + 16, 0x7f, buffer->size() - 16);
  const schema::Frame<schema::Generate> broken{buffer};
  BOOST_CHECK_THROW(
      {
        const schema::Reading message(broken);
        volatile auto n = message->getTokens().size();
        (void)n;
      },
      kj::Exception);
}

BOOST_AUTO_TEST_CASE(a_frame_is_built_around_its_data) {
  for (const size_t bytes : {0u, 4u, 8u, 100u, 4096u, 1u << 20}) {
    schema::DataFrameBuilder<schema::Activations> builder(200, bytes);
    const std::byte* const written = builder.data().data();
    BOOST_REQUIRE_EQUAL(builder.data().size(), bytes);
    for (std::byte& b : builder.data()) b = std::byte{0x5a};
    builder->setHidden(7);
    builder->initPlan().initEnds(30).set(29, 11);
    const auto frame = std::move(builder).finish();
    BOOST_CHECK(!schema::refuse_frame({frame.bytes()->data(), frame.bytes()->size()}));
    const schema::Reading message(frame);
    BOOST_CHECK_EQUAL(message->getHidden(), 7u);
    BOOST_CHECK_EQUAL(message->getPlan().getEnds()[29], 11u);
    const auto data = message->getData();
    BOOST_REQUIRE_EQUAL(data.size(), bytes);
    // Nothing was copied: they are where they were written.
    if (bytes > 0) BOOST_CHECK_EQUAL(reinterpret_cast<const std::byte*>(data.begin()), written);
    BOOST_CHECK(std::ranges::all_of(data, [](capnp::byte b) { return b == 0x5a; }));
    // Nothing but the data is arbitrary: what lies behind it is what was set, and zeros.
    BOOST_CHECK_LT(frame.bytes()->size(), 8 * 200 + bytes + 16);
  }
}

BOOST_AUTO_TEST_CASE(a_message_around_data_that_needs_more_than_was_said_throws) {
  schema::DataFrameBuilder<schema::Activations> builder(20, 64);
  BOOST_CHECK_THROW(builder->initPlan().initEnds(100), kj::Exception);
}
