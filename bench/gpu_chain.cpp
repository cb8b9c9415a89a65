#include "bench/gpu_chain.hpp"

#include <cuda.h>
#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <map>
#include <stdexcept>

#include "gpu/cuda/check.hpp"

namespace convoy::bench {
namespace {

using cuda::check;

constexpr int warm_runs = 2;

/// The driver's own functions: the run time's know no kernels of libraries that bring a run time of their
/// own.
struct Driver {
  decltype(&cuGraphKernelNodeGetParams) parameters = nullptr;
  decltype(&cuGraphAddKernelNode) add = nullptr;
  decltype(&cuGraphKernelNodeCopyAttributes) copy_attributes = nullptr;
  decltype(&cuFuncGetName) function_name = nullptr;
  decltype(&cuKernelGetName) kernel_name = nullptr;
};

const Driver& driver() {
  static const Driver found = [] {
    void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    const auto find = [&]<class Function>(Function& to, const char* name) {
      to = library ? reinterpret_cast<Function>(dlsym(library, name)) : nullptr;
      if (!to)
        throw std::runtime_error(std::string("the driver has no ") + name + ": it is of before CUDA 12.3");
    };
    Driver d;
    find(d.parameters, "cuGraphKernelNodeGetParams_v2"), find(d.add, "cuGraphAddKernelNode_v2");
    find(d.copy_attributes, "cuGraphKernelNodeCopyAttributes");
    find(d.function_name, "cuFuncGetName"), find(d.kernel_name, "cuKernelGetName");
    return d;
  }();
  return found;
}

void check(CUresult result, const char* what) {
  if (result != CUDA_SUCCESS)
    throw std::runtime_error(std::string(what) + ": CUresult " + std::to_string(result));
}

cudaGraphNodeType type_of(cudaGraphNode_t node) {
  cudaGraphNodeType type{};
  check(cudaGraphNodeGetType(node, &type), "cudaGraphNodeGetType");
  if (type != cudaGraphNodeTypeKernel && type != cudaGraphNodeTypeMemset)
    throw std::runtime_error("a step has a node of type " + std::to_string(type) +
                             ", which is not known here");
  return type;
}

CUDA_KERNEL_NODE_PARAMS parameters_of(cudaGraphNode_t node) {
  CUDA_KERNEL_NODE_PARAMS parameters{};
  check(driver().parameters(node, &parameters), "cuGraphKernelNodeGetParams");
  return parameters;
}

/// Adds the same node to a graph.
cudaGraphNode_t add(cudaGraph_t graph, cudaGraphNode_t like) {
  cudaGraphNode_t node = nullptr;
  if (type_of(like) == cudaGraphNodeTypeMemset) {
    cudaMemsetParams parameters{};
    check(cudaGraphMemsetNodeGetParams(like, &parameters), "cudaGraphMemsetNodeGetParams");
    check(cudaGraphAddMemsetNode(&node, graph, nullptr, 0, &parameters), "cudaGraphAddMemsetNode");
    return node;
  }
  const CUDA_KERNEL_NODE_PARAMS parameters = parameters_of(like);
  check(driver().add(&node, graph, nullptr, 0, &parameters), "cuGraphAddKernelNode");
  check(driver().copy_attributes(node, like), "cuGraphKernelNodeCopyAttributes");
  return node;
}

double median_of(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

}  // namespace

cudaGraphNode_t last_captured(cudaStream_t stream) {
  cudaStreamCaptureStatus status{};
  const cudaGraphNode_t* nodes = nullptr;
  const cudaGraphEdgeData* how = nullptr;
  size_t count = 0;
  check(cudaStreamGetCaptureInfo(stream, &status, nullptr, nullptr, &nodes, &how, &count),
        "cudaStreamGetCaptureInfo");
  if (status != cudaStreamCaptureStatusActive || count != 1)
    throw std::runtime_error("a step's launches do not follow one another");
  return nodes[0];
}

std::vector<Chain> cut(cudaGraph_t graph, const std::vector<cudaGraphNode_t>& ends) {
  size_t edges = 0, roots = 1;
  check(cudaGraphGetNodes(graph, nullptr, &edges), "cudaGraphGetNodes");  // of which there are more
  std::vector<cudaGraphNode_t> from(edges), to(edges);
  std::vector<cudaGraphEdgeData> how(edges);
  check(cudaGraphGetEdges(graph, from.data(), to.data(), how.data(), &edges), "cudaGraphGetEdges");
  std::map<cudaGraphNode_t, Launch> next;
  for (size_t i = 0; i < edges; i++)
    if (!next.emplace(from[i], Launch{to[i], how[i]}).second)
      throw std::runtime_error("a step's launches do not follow one another");
  Launch at;
  check(cudaGraphGetRootNodes(graph, &at.node, &roots), "cudaGraphGetRootNodes");
  std::vector<Chain> parts;
  for (const cudaGraphNode_t end : ends) {
    Chain& part = parts.emplace_back();
    // Of two ends at one launch the second has none of its own.
    if (parts.size() > 1 && end == ends[parts.size() - 2]) continue;
    for (;;) {
      if (!at.node) throw std::runtime_error("a step ends before its last group");
      part.push_back(at);
      const auto found = next.find(at.node);
      at = found == next.end() ? Launch{} : found->second;
      if (part.back().node == end) break;
    }
  }
  return parts;
}

Chain apart(Chain chain) {
  for (Launch& launch : chain) launch.after = {};
  return chain;
}

std::string kernel_name(cudaGraphNode_t node) {
  if (type_of(node) == cudaGraphNodeTypeMemset) return "memset";
  const CUDA_KERNEL_NODE_PARAMS p = parameters_of(node);
  const char* mangled = "";
  check(p.func ? driver().function_name(&mangled, p.func) : driver().kernel_name(&mangled, p.kern),
        "a kernel's name");
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> plain(
      abi::__cxa_demangle(mangled, nullptr, nullptr, &status), &std::free);
  std::string name = status == 0 ? plain.get() : mangled;
  for (const std::string_view noise :
       {"void ", "(anonymous namespace)::", "convoy::cuda::", "convoy::model::"})
    for (size_t at; (at = name.find(noise)) != name.npos;) name.erase(at, noise.size());
  // The parameters begin at the first bracket outside of the template's arguments.
  int depth = 0;
  for (size_t i = 0; i < name.size(); i++) {
    depth += name[i] == '<' ? 1 : name[i] == '>' ? -1 : 0;
    if (name[i] == '(' && depth == 0) return name.substr(0, i);
  }
  return name;
}

ChainTimer::ChainTimer(cudaStream_t stream, int repeats) : stream_(stream), repeats_(repeats) {
  check(cudaEventCreate(&begin_), "cudaEventCreate");
  check(cudaEventCreate(&end_), "cudaEventCreate");
}
ChainTimer::~ChainTimer() {
  cudaEventDestroy(begin_);
  cudaEventDestroy(end_);
}

GraphExec ChainTimer::graph(const Chain& chain) const {
  cudaGraph_t made = nullptr;
  check(cudaGraphCreate(&made, 0), "cudaGraphCreate");
  const Graph owner(made);
  cudaGraphNode_t before = nullptr;
  for (const Launch& launch : chain) {
    const cudaGraphNode_t node = add(made, launch.node);
    if (before)
      check(cudaGraphAddDependencies(made, &before, &node, &launch.after, 1), "cudaGraphAddDependencies");
    before = node;
  }
  cudaGraphExec_t launches = nullptr;
  check(cudaGraphInstantiate(&launches, made, 0), "cudaGraphInstantiate");
  return GraphExec(launches);
}

double ChainTimer::run(const GraphExec& graph) const {
  check(cudaEventRecord(begin_, stream_), "cudaEventRecord");
  check(cudaGraphLaunch(graph.get(), stream_), "cudaGraphLaunch");
  check(cudaEventRecord(end_, stream_), "cudaEventRecord");
  check(cudaEventSynchronize(end_), "a chain of launches");
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
  return static_cast<double>(milliseconds) * 1e-3;
}

double ChainTimer::median(const GraphExec& graph) const {
  std::vector<double> took;
  for (int i = 0; i < warm_runs; i++) run(graph);
  for (int i = 0; i < repeats_; i++) took.push_back(run(graph));
  return median_of(std::move(took));
}

double ChainTimer::median_difference(const GraphExec& more, const GraphExec& less) const {
  std::vector<double> took;
  for (int i = 0; i < warm_runs; i++) run(more), run(less);
  for (int i = 0; i < repeats_; i++) {
    const double first = run(more);
    took.push_back(first - run(less));
  }
  return median_of(std::move(took));
}

}  // namespace convoy::bench
