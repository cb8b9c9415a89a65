// The library's edge: what it exports, and where failures become statuses.

#include <algorithm>
#include <new>

#include "gpu/cuda/device.hpp"

namespace convoy::cuda {

struct Handle {
  CudaDevice device;
};

namespace {

void put(char* to, size_t room, const std::string& text) {
  const size_t count = std::min(room - 1, text.size());
  std::copy_n(text.data(), count, to);
  to[count] = 0;
}

void report(Status& status, Code code, const std::string& what, const std::string& where,
            const std::string& mend) {
  status.code = code;
  put(status.what, sizeof status.what, what), put(status.where, sizeof status.where, where);
  put(status.mend, sizeof status.mend, mend);
}

template <class Body>
void guarded(Status* status, const Body& body) {
  status->code = Code::ok;
  try {
    body();
  } catch (const Failure& failure) {
    report(*status, failure.code, failure.what(), failure.where, failure.mend);
  } catch (const std::bad_alloc&) {
    report(*status, Code::out_of_memory, "out of memory", "the host", "free memory on the host");
  } catch (const std::exception& e) {
    report(*status, Code::fault, e.what(), "CUDA library", "");
  }
}

void cards(int32_t* count, Status* status) {
  guarded(status, [&] { *count = count_cards(); });
}
void check_card(int32_t ordinal, Status* status) {
  guarded(status, [&] { cuda::check_card(ordinal); });
}
void open(const OpenOptions* options, const StageShape* shape, Handle** handle, Status* status) {
  guarded(status, [&] { *handle = new Handle{{*options, *shape}}; });
}
void facts(const Handle* handle, Facts* to) { *to = handle->device.facts(); }
void needs(const Handle* handle, const DeviceLimits* limits, Needs* to) {
  *to = handle->device.needs(*limits);
}
void memory(const Handle* handle, uint64_t* bytes, Status* status) {
  guarded(status, [&] { handle->device.enter(), *bytes = handle->device.memory_bytes(); });
}
void load(Handle* handle, int64_t layer, const WeightRef* parts, uint64_t count, Status* status) {
  guarded(status, [&] { handle->device.enter(), handle->device.load(layer, {parts, count}); });
}
void prepare(Handle* handle, const DeviceLimits* limits, const Rotations* rotations, Status* status) {
  guarded(status, [&] { handle->device.enter(), handle->device.prepare(*limits, *rotations); });
}
void submit(Handle* handle, const Step* step, Status* status) {
  guarded(status, [&] { handle->device.enter(), handle->device.submit(*step); });
}
int32_t next_done(Handle* handle, int64_t wait_us, Done* done, Status* status) {
  bool is_done = false;
  guarded(status, [&] { handle->device.enter(), is_done = handle->device.next_done(wait_us, *done); });
  return is_done;
}
void release(Handle* handle, uint64_t number, Status* status) {
  guarded(status, [&] { handle->device.release(number); });
}
void reset(Handle* handle, Status* status) {
  guarded(status, [&] { handle->device.enter(), handle->device.reset(); });
}
void save_block(Handle* handle, uint32_t block, void* to, Status* status) {
  guarded(status,
          [&] { handle->device.enter(), handle->device.save_block(block, static_cast<std::byte*>(to)); });
}
void load_block(Handle* handle, uint32_t block, const void* from, Status* status) {
  guarded(status, [&] {
    handle->device.enter(), handle->device.load_block(block, static_cast<const std::byte*>(from));
  });
}
void page_lock(Handle* handle, void* memory, uint64_t bytes, Status* status) {
  guarded(status, [&] { handle->device.enter(), handle->device.page_lock(memory, bytes); });
}
void offer_edge(Handle* handle, EdgeKey* key, Status* status) {
  guarded(status, [&] { handle->device.enter(), *key = handle->device.offer_edge(); });
}
void join_edge(Handle* handle, const EdgeKey* key, Status* status) {
  guarded(status, [&] { handle->device.enter(), handle->device.join_edge(*key); });
}
void edge_status(Handle* handle, EdgeEnd end, EdgeState* state, char* reason, uint64_t reason_bytes,
                 Status* status) {
  guarded(status, [&] {
    handle->device.enter();
    Edge* const edge = handle->device.edge(end);
    *state = edge ? edge->state() : EdgeState::none;
    put(reason, reason_bytes, edge ? edge->reason() : "");
  });
}
void end_edge(Handle* handle, EdgeEnd end, Status* status) {
  guarded(status, [&] { handle->device.enter(), handle->device.end_edge(end); });
}
void close(Handle* handle) { delete handle; }

constexpr Table table{.version = table_version,
                      .layout = table_layout(),
                      .cards = cards,
                      .check = check_card,
                      .open = open,
                      .facts = facts,
                      .needs = needs,
                      .memory = memory,
                      .load = load,
                      .prepare = prepare,
                      .submit = submit,
                      .next_done = next_done,
                      .release = release,
                      .reset = reset,
                      .save_block = save_block,
                      .load_block = load_block,
                      .page_lock = page_lock,
                      .offer_edge = offer_edge,
                      .join_edge = join_edge,
                      .edge_status = edge_status,
                      .end_edge = end_edge,
                      .close = close};

}  // namespace
}  // namespace convoy::cuda

extern "C" __attribute__((visibility("default"))) const convoy::cuda::Table* convoy_cuda_table() {
  return &convoy::cuda::table;
}
