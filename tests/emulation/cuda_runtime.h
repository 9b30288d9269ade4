// Emulates on the CPU the part of CUDA that csrc/ops/cuda uses. The kernels stay unchanged. Blocks run one after the
// other, and each thread of a block has a context of its own. Execution switches between threads only where they wait
// for each other, each time in another order, so a kernel that lacks a barrier gives wrong results. If not all threads
// reach a barrier together, the process ends with a message.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __shared__ static  // blocks run one after the other

struct float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) ulonglong2 {
  unsigned long long x, y;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

using std::isfinite;

template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  return b < a ? b : a;
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  return a < b ? b : a;
}

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Atomic, because no thread is interrupted in between.
template <class T, class U>
T atomicAdd(T* target, U value) {
  return std::exchange(*target, static_cast<T>(*target + value));
}
template <class T, class U>
T atomicOr(T* target, U value) {
  return std::exchange(*target, static_cast<T>(*target | value));
}

namespace emulation {

constexpr int kWarp = 32;
constexpr std::size_t kStack = 1 << 16;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulated CUDA: %s\n", what);
  std::abort();
}

struct Index {
  unsigned x;
};

// A place where threads wait for each other.
struct Barrier {
  int arrived = 0, line = 0, generation = 0;
};

struct Thread {
  std::unique_ptr<char[]> stack;  // made when the thread first runs, and reused by the next block
  ucontext_t entry;
  jmp_buf state;
  Index index;
  bool alive;
  const Barrier* waits;
  int waits_for;  // a generation of the barrier
};

class Block {
 public:
  Index index;

  static Block*& current() {
    static thread_local Block* block = nullptr;
    return block;
  }

  Block(unsigned number, unsigned threads, const std::function<void()>& body)
      : index{number},
        body_(body),
        warps_(threads / kWarp),
        slots_(threads),
        order_(threads),
        random_(number),
        alive_(static_cast<int>(threads)) {
    if (threads % kWarp != 0) fail("a block must consist of whole warps");
    static thread_local std::vector<std::unique_ptr<Thread>> known;
    while (known.size() < threads) known.push_back(std::make_unique<Thread>());
    current() = this;
    for (unsigned i = 0; i < threads; ++i) {
      Thread& thread = *known[i];
      thread.index = {i};
      thread.alive = true;
      thread.waits = nullptr;
      order_[i] = &thread;
    }
    while (alive_ > 0) {
      std::shuffle(order_.begin(), order_.end(), random_);
      const unsigned resting = static_cast<unsigned>(random_());  // warps that rest, so that others get far ahead
      bool able = false;
      for (Thread* thread : order_) {
        if (!thread->alive || (thread->waits != nullptr && thread->waits->generation != thread->waits_for)) continue;
        able = true;
        if ((resting >> thread->index.x / kWarp & 1) == 0) resume(*thread);
      }
      if (!able) fail("threads wait for others that have ended or wait elsewhere");
    }
    current() = nullptr;
  }

  Index thread() const { return now_->index; }

  // Waits for all threads of the block that have not ended.
  void synchronize(int line) { wait(all_, alive_, line); }

  // Waits for all threads of the warp. Each thread then has the `value` of every lane.
  const uint64_t* exchange(uint64_t value, int line) {
    const unsigned warp = now_->index.x / kWarp;
    slots_[now_->index.x] = value;
    wait(warps_[warp], kWarp, line);
    return &slots_[warp * kWarp];
  }

  void leave_exchange(int line) { wait(warps_[now_->index.x / kWarp], kWarp, -line); }

  bool synchronize_and(bool value, int line) {
    if (!value) all_true_ = false;
    synchronize(line);
    const bool result = all_true_;
    synchronize(-line);
    all_true_ = true;
    synchronize(-line);
    return result;
  }

 private:
  // Uses longjmp, because swapcontext makes a system call for the signal mask each time.
  void resume(Thread& thread) {
    now_ = &thread;
    if (_setjmp(scheduler_) != 0) return;
    if (thread.stack != nullptr) _longjmp(thread.state, 1);
    thread.stack = std::make_unique_for_overwrite<char[]>(kStack);
    getcontext(&thread.entry);
    thread.entry.uc_stack.ss_sp = thread.stack.get();
    thread.entry.uc_stack.ss_size = kStack;
    makecontext(&thread.entry, &Block::run, 0);
    setcontext(&thread.entry);
  }

  static void run() {
    for (;;) current()->run_thread();
  }

  void run_thread() {
    body_();
    Thread& self = *now_;
    self.alive = false;
    --alive_;
    if (all_.arrived > 0 && all_.arrived == alive_) release(all_);
    if (_setjmp(self.state) == 0) _longjmp(scheduler_, 1);
  }

  static void release(Barrier& barrier) {
    barrier.arrived = 0;
    ++barrier.generation;
  }

  void wait(Barrier& barrier, int expected, int line) {
    if (barrier.arrived > 0 && barrier.line != line) fail("threads wait in different places");
    barrier.line = line;
    if (++barrier.arrived == expected) return release(barrier);
    Thread& self = *now_;
    self.waits = &barrier;
    self.waits_for = barrier.generation + 1;
    if (_setjmp(self.state) == 0) _longjmp(scheduler_, 1);
    self.waits = nullptr;
  }

  const std::function<void()>& body_;
  std::vector<Barrier> warps_;
  Barrier all_;
  std::vector<uint64_t> slots_;
  std::vector<Thread*> order_;
  std::minstd_rand random_;
  int alive_;
  jmp_buf scheduler_;
  Thread* now_ = nullptr;
  bool all_true_ = true;
};

template <class Kernel>
auto launch(unsigned blocks, unsigned threads, Kernel kernel) {
  return [=](auto... arguments) {
    const std::function<void()> body = [&] { kernel(arguments...); };
    if (blocks == 0) fail("a grid must have blocks");
    for (unsigned block = 0; block < blocks; ++block) Block(block, threads, body);
  };
}

template <class T>
T lane_of(unsigned mask, T value, int lane, int line) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  if (mask != 0xffffffffu) fail("only masks of whole warps are supported");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  Block& block = *Block::current();
  bits = block.exchange(bits, line)[lane];
  block.leave_exchange(line);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

inline int lane() { return static_cast<int>(Block::current()->thread().x % kWarp); }

inline int lane_above(int distance) { return lane() < distance ? lane() : lane() - distance; }

inline int any(unsigned mask, bool value, int line) {
  if (mask != 0xffffffffu) fail("only masks of whole warps are supported");
  Block& block = *Block::current();
  const uint64_t* values = block.exchange(value, line);
  const bool result = std::any_of(values, values + kWarp, [](uint64_t one) { return one != 0; });
  block.leave_exchange(line);
  return result;
}

}  // namespace emulation

#define blockIdx (emulation::Block::current()->index)
#define threadIdx (emulation::Block::current()->thread())
#define __syncthreads() emulation::Block::current()->synchronize(__LINE__)
#define __syncthreads_and(value) emulation::Block::current()->synchronize_and(value, __LINE__)
#define __any_sync(mask, value) emulation::any(mask, value, __LINE__)
#define __shfl_xor_sync(mask, value, other) emulation::lane_of(mask, value, emulation::lane() ^ (other), __LINE__)
#define __shfl_up_sync(mask, value, distance) emulation::lane_of(mask, value, emulation::lane_above(distance), __LINE__)

namespace emulation {

struct DeviceGuard {
  explicit DeviceGuard(int32_t) {}
};

inline int32_t current_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}

}  // namespace emulation

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* target, int value, std::size_t bytes, cudaStream_t) {
  std::memset(target, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* target, const void* source, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(target, source, bytes);
  return cudaSuccess;
}
