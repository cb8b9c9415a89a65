#pragma once
// The values that a template computes with. Lists and dictionaries never change once they are made, as in
// jinja2's immutable sandbox, so they are shared; what changes (namespaces, loops) belongs to the rendering.

#include <concepts>
#include <cstdint>
#include <memory>
#include <memory_resource>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "model/chat/jinja/meter.hpp"
#include "model/chat/jinja/text.hpp"

namespace convoy::model::jinja {

class Value;
class Dictionary;
struct Builtin;
struct BoundMethod;
struct List;
struct Loop;
struct Macro;
struct Namespace;

struct Undefined {
  const std::string* name = nullptr;  // in the template; for messages
};
struct None {};

using TextPtr = std::shared_ptr<const Text>;
using ListPtr = std::shared_ptr<const List>;
using DictionaryPtr = std::shared_ptr<const Dictionary>;
using BoundMethodPtr = std::shared_ptr<const BoundMethod>;

class Value {
 public:
  Value() = default;  // undefined
  Value(Undefined undefined) : held_(undefined) {}
  Value(None none) : held_(none) {}
  template <std::same_as<bool> T>  // or pointers would become true
  Value(T value) : held_(value) {}
  Value(int64_t value) : held_(value) {}
  Value(uint64_t) = delete;  // big() or a cast
  Value(double value) : held_(value) {}
  Value(Text text) : held_(std::make_shared<const Text>(std::move(text))) {}
  Value(TextPtr text) : held_(std::move(text)) {}
  Value(ListPtr list) : held_(std::move(list)) {}
  Value(DictionaryPtr dictionary) : held_(std::move(dictionary)) {}
  Value(BoundMethodPtr method) : held_(std::move(method)) {}
  Value(Namespace* space) : held_(space) {}
  Value(Loop* loop) : held_(loop) {}
  Value(const Macro* macro) : held_(macro) {}
  Value(const Builtin* function) : held_(function) {}
  /// An integer that JSON may hold and that no arithmetic takes.
  static Value big(uint64_t value) {
    Value result;
    result.held_ = Big{value};
    return result;
  }

  template <class T>
  bool is() const {
    return std::holds_alternative<T>(held_);
  }
  /// nullptr if it is something else.
  template <class T>
  const T* get() const {
    return std::get_if<T>(&held_);
  }
  const Text* text() const { return pointee<Text>(); }
  const List* list() const { return pointee<List>(); }
  const Dictionary* dictionary() const { return pointee<Dictionary>(); }
  std::optional<uint64_t> big() const {
    const Big* big = get<Big>();
    return big ? std::optional(big->value) : std::nullopt;
  }
  bool undefined() const { return is<Undefined>(); }
  bool none() const { return is<None>(); }
  /// As messages name it: "a string", "a list".
  std::string_view kind() const;
  bool truthy() const;
  /// How deep lists are nested in it; 0 for what is no list.
  size_t nesting() const;

 private:
  struct Big {
    uint64_t value;
  };
  template <class T>
  const T* pointee() const {
    const auto* pointer = get<std::shared_ptr<const T>>();
    return pointer ? pointer->get() : nullptr;
  }

  std::variant<Undefined, None, bool, int64_t, Big, double, TextPtr, ListPtr, DictionaryPtr, BoundMethodPtr,
               Namespace*, Loop*, const Macro*, const Builtin*>
      held_;
};

/// Makes the elements of a list as a template comes to them: of a hundred thousand messages it sees a few
/// thousand before their text is too long.
class LateElements {
 public:
  virtual ~LateElements() = default;
  /// No list, and nothing undefined.
  virtual Value element(size_t index) = 0;
};

struct List {
  class Elements {
   public:
    Elements(std::vector<Value> all) : all_(std::move(all)) {}
    Elements(size_t count, LateElements& source) : all_(count), source_(&source) {}

    size_t size() const { return all_.size(); }
    bool empty() const { return all_.empty(); }
    const Value& operator[](size_t index) const {
      Value& element = all_[index];
      if (source_ && element.undefined()) element = source_->element(index);
      return element;
    }
    const std::vector<Value>& all() const {
      for (size_t i = 0; source_ && i < size(); i++) (*this)[i];
      source_ = nullptr;
      return all_;
    }
    auto begin() const { return all().begin(); }
    auto end() const { return all().end(); }

   private:
    // Only the rendering's thread looks at a list that is not whole, and sees no difference.
    mutable std::vector<Value> all_;          // undefined: not made yet
    mutable LateElements* source_ = nullptr;  // null: it is whole
  };

  /// Python tells them apart: a view has a length but no places, a generator neither, and it counts as true.
  enum class Kind { list, tuple, range, view, generator };

  /// Charges for the elements. Throws InputError where lists are nested too deep.
  static Value make(Meter& meter, std::vector<Value> elements, Kind kind = Kind::list);
  /// The source outlives it.
  static Value late(Meter& meter, size_t count, LateElements& source);

  bool has_places() const { return kind != Kind::view && kind != Kind::generator; }

  Kind kind;
  Elements elements;
  size_t nesting;
};

/// Keys are strings, numbers or none, in the order in which they came.
class Dictionary {
 public:
  struct Entry {
    Value key, value;
  };

  /// Moves the entries' values out; the vector itself stays the caller's, who may fill it again.
  static Value make(Meter& meter, std::vector<std::pair<Value, Value>>&& entries);

  explicit Dictionary(std::pmr::memory_resource* memory) : entries_(memory) {}

  const std::pmr::vector<Entry>& entries() const { return entries_; }
  const Value* find(std::string_view key) const;
  /// Charges for keys that are no strings: it goes through them.
  const Value* find(Meter& meter, const Value& key) const;
  size_t nesting() const { return nesting_; }

 private:
  static constexpr size_t searched_max = 8;  // entries that are found as fast without places_

  void add(Entry entry);
  std::optional<size_t> place(std::string_view key) const;
  std::optional<size_t> place(Meter& meter, const Value& key) const;

  std::pmr::vector<Entry> entries_;
  std::unordered_map<std::string_view, size_t> places_;  // by keys that are strings; of more entries only
  size_t nesting_ = 0;
};

/// The only thing that a template can change.
struct Namespace {
  std::vector<std::pair<std::string, Value>> variables;

  Value* find(std::string_view name);
};

struct BoundMethod {
  Value self;
  const Builtin* method;
};

/// The variable `loop` of a loop under way.
struct Loop {
  ListPtr items;
  size_t index = 0;
  std::optional<Value> last_changed;  // what loop.changed() saw last

  /// What stands behind `loop.NAME`; undefined if there is none.
  Value attribute(std::string_view name) const;
};

/// 1 and True, 1 and 1.0 are equal, as in Python. Charges for what it compares.
bool equal(Meter& meter, const Value& a, const Value& b);
/// Throws InputError for what has no order.
bool less(Meter& meter, const Value& a, const Value& b);

/// int, float and bool.
struct Number {
  std::optional<int64_t> integer;  // else real
  double real = 0;
};
std::optional<Number> number_of(const Value& value);

/// `name`: of a variable or an argument that has to be an integer.
int64_t integer_of(Meter& meter, const Value& value, std::string_view name);

/// What a loop goes through: elements, a dictionary's keys, a string's characters. Throws InputError for the
/// rest.
ListPtr iterated(Meter& meter, const Value& value);

}  // namespace convoy::model::jinja
