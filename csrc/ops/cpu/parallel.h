// How CPU operators share work among threads when the pieces differ in size.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace yolact {

// Calls body(item, scratch) for every item below `count`. Each thread makes itself a scratch. Threads take the next
// item when they are ready, so a thread with a large item, or one that the system holds up, does not keep the others
// waiting.
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
