#pragma once
// TokenIds: the ids that a step brings of one sequence. Mostly that is one, which takes no memory of its own:
// planning a step of a thousand decodes is no thousand allocations. A value.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace convoy::gpu {

class TokenIds {
 public:
  using value_type = int32_t;
  using const_iterator = const int32_t*;

  TokenIds() = default;
  TokenIds(std::initializer_list<int32_t> ids) : TokenIds(ids.begin(), ids.end()) {}
  TokenIds(std::vector<int32_t> ids) {
    if (ids.size() == 1)
      append(ids.begin(), ids.end());
    else
      many_ = std::move(ids);
  }
  template <class Iterator>
  TokenIds(Iterator first, Iterator last) {
    append(first, last);
  }

  size_t size() const { return many_.empty() ? has_one_ : many_.size(); }
  bool empty() const { return size() == 0; }
  const int32_t* data() const { return many_.empty() ? &one_ : many_.data(); }
  const int32_t* begin() const { return data(); }
  const int32_t* end() const { return data() + size(); }
  int32_t operator[](size_t index) const { return data()[index]; }
  int32_t at(size_t index) const {
    if (index >= size()) throw std::out_of_range("token " + std::to_string(index));
    return data()[index];
  }
  int32_t back() const { return data()[size() - 1]; }
  bool operator==(const TokenIds& other) const {
    return std::equal(begin(), end(), other.begin(), other.end());
  }

  template <class Iterator>
  void append(Iterator first, Iterator last) {
    if (empty() && last - first == 1) {
      one_ = *first;
      has_one_ = true;
      return;
    }
    if (many_.empty() && has_one_) many_.push_back(one_);
    many_.insert(many_.end(), first, last);
  }

 private:
  int32_t one_ = 0;  // if it is the only one
  bool has_one_ = false;
  std::vector<int32_t> many_;  // else all
};

}  // namespace convoy::gpu
