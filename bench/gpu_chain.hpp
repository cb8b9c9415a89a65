#pragma once
// A captured step's launches, taken apart and put together anew: to time some of them alone, or a step
// without some. What they read and write is the step's; the graph that they are from has to outlive them.

#include <cuda_runtime_api.h>

#include <memory>
#include <string>
#include <vector>

namespace convoy::bench {

struct DestroyGraph {
  void operator()(cudaGraph_t graph) const { cudaGraphDestroy(graph); }
  void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
};
using Graph = std::unique_ptr<CUgraph_st, DestroyGraph>;
using GraphExec = std::unique_ptr<CUgraphExec_st, DestroyGraph>;

struct Launch {
  cudaGraphNode_t node = nullptr;
  cudaGraphEdgeData after{};  // how it follows the launch before it
};
/// One after the other.
using Chain = std::vector<Launch>;

/// The launch that a stream captured last.
cudaGraphNode_t last_captured(cudaStream_t stream);
/// A graph whose launches follow one another, cut behind each of `ends`.
std::vector<Chain> cut(cudaGraph_t graph, const std::vector<cudaGraphNode_t>& ends);
/// The same launches, each when the one before it has ended: none begins early.
Chain apart(Chain chain);
/// A kernel's, without namespaces and parameters.
std::string kernel_name(cudaGraphNode_t node);

class ChainTimer {
 public:
  ChainTimer(cudaStream_t stream, int repeats);
  ~ChainTimer();
  ChainTimer(const ChainTimer&) = delete;
  ChainTimer& operator=(const ChainTimer&) = delete;

  GraphExec graph(const Chain& chain) const;
  /// Once, to the end. Seconds.
  double run(const GraphExec& graph) const;
  /// Medians over the repeats. Two whose difference is asked for take turns.
  double median(const GraphExec& graph) const;
  double median_difference(const GraphExec& more, const GraphExec& less) const;

 private:
  cudaStream_t stream_;
  int repeats_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

}  // namespace convoy::bench
