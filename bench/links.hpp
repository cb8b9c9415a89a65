#pragma once
// What bench/run links measures: an exchange of frames between two processes, carried by links, by CAF's BASP
// or by plain Asio. Exchange says what is sent when and keeps the times; a Carrier sends. Both run on one
// thread of the measuring process, the carrier's: that of its actor or of its sockets.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "schema/frame.hpp"

namespace convoy::bench {

inline constexpr std::chrono::seconds exchange_timeout{120};  // it hangs

/// What the other process does with a message.
enum class Ask : uint64_t {
  echo,  // sends it back
  take,  // answers with a small one, on control
};

/// As it travels: small ones (StepResult) on control and large ones (Activations) on bulk, where the carrier
/// has both. The ask also stands in the frame, as epoch.
struct Message {
  schema::Lane lane = schema::Lane::control;
  Ask ask = Ask::echo;
  schema::FrameBytes bytes;
};
Message small_message(Ask ask);
Message large_message(Ask ask, size_t hidden_bytes);

class Exchange;

class Carrier {
 public:
  virtual ~Carrier() = default;
  /// Runs it to its end. Throws std::runtime_error if that does not come.
  virtual void run(Exchange& exchange) = 0;

  // For the exchange, while it runs.
  virtual void send(const Message& message) = 0;
  virtual void wake_after(std::chrono::microseconds pause) = 0;  // Exchange::woken(), once
};

/// Keeps `window` messages on their way for so long, and beside them, with pings, a small one that is echoed
/// and sent anew a millisecond later.
class Exchange {
 public:
  struct Plan {
    Message message;
    size_t window = 1;
    double seconds = 1;
    bool pings = false;
  };
  explicit Exchange(Plan plan) : plan_(std::move(plan)) {}

  // Called by the carrier.
  void begin(Carrier& carrier);
  void answered(Carrier& carrier, Ask ask, size_t bytes);
  void woken(Carrier& carrier);
  bool has_ended() const { return ended_; }

  // After its end; the first tenth of the time is not in them.
  const std::vector<double>& round_trips_us() const { return round_trips_us_; }  // with a window of 1
  const std::vector<double>& pings_us() const { return pings_us_; }
  double messages_per_s() const;
  double bytes_per_s() const;  // as frames, one way

 private:
  using Clock = std::chrono::steady_clock;
  void send(Carrier& carrier);
  void ping(Carrier& carrier);
  bool goes_on(Clock::time_point now) const;
  void end_if_quiet();

  const Plan plan_;
  const Message ping_ = small_message(Ask::echo);
  Clock::time_point begin_, warm_, until_, sent_, pinged_, first_, last_;
  size_t on_their_way_ = 0, answered_ = 0;
  bool ping_is_out_ = false, ended_ = false;
  std::vector<double> round_trips_us_, pings_us_;
};

/// One way to carry: the answering process and the measuring one.
struct Way {
  const char* name;
  /// Answers at a port of loopback, which is handed to `listening`, until that returns.
  void (*serve)(const std::function<void(uint16_t port)>& listening);
  std::unique_ptr<Carrier> (*connect)(uint16_t port);
};
extern const Way link_way, link_tcp_way, link_tls_way, asio_way, asio_unix_way, basp_way, basp_tuned_way;

}  // namespace convoy::bench
