#pragma once
// Reread: a value that files hold, read anew when they change: keys, certificates. What cannot be read, or is
// no good, changes nothing, and the log says so.

#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "actors/process/log.hpp"
#include "actors/process/private_files.hpp"

namespace convoy::gateway {

template <class T>
class Reread {
 public:
  using Load = std::function<std::shared_ptr<T>()>;

  /// load throws InputError if it cannot be read; so does this constructor. event: of the log, with "_read"
  /// or
  /// "_not_read" behind it.
  Reread(std::string event, std::vector<std::filesystem::path> files, Load load)
      : event_(std::move(event)),
        files_(std::move(files)),
        load_(std::move(load)),
        stamp_(stamp()),
        value_(load_()) {}

  /// As it is now. Any thread.
  std::shared_ptr<T> get() const {
    const std::lock_guard lock(mutex_);
    return value_;
  }

  /// Takes the files' changes. One thread at a time, once a second or so.
  void look() {
    std::string stamp = this->stamp();
    if (stamp == stamp_) return;
    stamp_ = std::move(stamp);  // of before they are read: a change meanwhile is another one
    try {
      auto value = load_();
      log::info(event_ + "_read");
      const std::lock_guard lock(mutex_);
      value_ = std::move(value);
    } catch (const std::exception& e) {  // whatever it is: what runs goes on
      log::warn(event_ + "_not_read", {{"reason", e.what()}});
    }
  }

 private:
  std::string stamp() const {
    std::string all;
    for (const auto& file : files_) all += actors::stamp_of(file) + ";";
    return all;
  }

  const std::string event_;
  const std::vector<std::filesystem::path> files_;
  const Load load_;
  std::string stamp_;  // of what was read last
  mutable std::mutex mutex_;
  std::shared_ptr<T> value_;
};

}  // namespace convoy::gateway
