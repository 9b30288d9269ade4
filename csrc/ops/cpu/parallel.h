// How operators of the CPU share work among threads, where pieces differ in size.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace yolact {

// body(item, scratch) for every item below `count`, where each thread makes itself a scratch. Threads take what is next:
// one that the system holds up, or that has a large item, does not keep the others waiting.
template <class Scratch, class Body>
void in_turns(int64_t count, const Scratch& make_scratch, const Body& body) {
  std::atomic<int64_t> next = 0;
  const int64_t threads = torch::stable::get_num_threads();
  torch::stable::parallel_for(0, std::min(threads, count), 1, [&](int64_t, int64_t) {
    auto scratch = make_scratch();
    for (int64_t item = next++; item < count; item = next++) body(item, scratch);
  });
}

}  // namespace yolact
