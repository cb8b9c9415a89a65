#include "model/chat/jinja/syntax.hpp"

#include <algorithm>
#include <type_traits>

namespace convoy::model::jinja {
namespace {

// What stands below a node, for its height.

size_t height(const ExpressionPtr& expression) { return expression ? expression->height : 0; }
size_t height(const std::vector<ExpressionPtr>& all) {
  size_t highest = 0;
  for (const ExpressionPtr& each : all) highest = std::max(highest, height(each));
  return highest;
}
template <class Key>
size_t height(const std::vector<std::pair<Key, ExpressionPtr>>& all) {
  size_t highest = 0;
  for (const auto& [key, each] : all) {
    highest = std::max(highest, height(each));
    if constexpr (std::is_same_v<Key, ExpressionPtr>) highest = std::max(highest, height(key));
  }
  return highest;
}
size_t height(const ArgumentList& arguments) {
  return std::max(height(arguments.positional), height(arguments.named));
}

size_t below(const Constant&) { return 0; }
size_t below(const Name&) { return 0; }
size_t below(const Elements& node) { return height(node.elements); }
size_t below(const Entries& node) { return height(node.entries); }
size_t below(const Attribute& node) { return height(node.object); }
size_t below(const Item& node) { return std::max(height(node.object), height(node.index)); }
size_t below(const Slice& node) {
  return std::max({height(node.object), height(node.start), height(node.stop), height(node.step)});
}
size_t below(const CallExpression& node) { return std::max(height(node.callee), height(node.arguments)); }
size_t below(const FilterExpression& node) { return std::max(height(node.operand), height(node.arguments)); }
size_t below(const TestExpression& node) { return std::max(height(node.operand), height(node.arguments)); }
size_t below(const Signed& node) { return height(node.operand); }
size_t below(const Not& node) { return height(node.operand); }
size_t below(const Logical& node) { return std::max(height(node.left), height(node.right)); }
size_t below(const Calculation& node) { return std::max(height(node.left), height(node.right)); }
size_t below(const Concatenation& node) { return height(node.parts); }
size_t below(const Comparison& node) { return std::max(height(node.first), height(node.rest)); }
size_t below(const Conditional& node) {
  return std::max({height(node.test), height(node.then), height(node.otherwise)});
}

}  // namespace

void refuse_nesting(int line) {
  fail_at(line, "nests more than " + std::to_string(nesting_max) + " deep", "use a simpler template");
}

ExpressionPtr make_expression(int line, decltype(Expression::node) node) {
  const size_t height = 1 + std::visit([](const auto& each) { return below(each); }, node);
  if (height > nesting_max) refuse_nesting(line);
  return std::make_unique<const Expression>(Expression{line, height, std::move(node)});
}

}  // namespace convoy::model::jinja
