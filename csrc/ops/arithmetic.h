// The arithmetic that CPU and CUDA kernels share. Each operator has its own part of it in the header of its name, so
// that tests on a machine without a GPU cover both devices. Every rounding step matches the plain-PyTorch reference
// (yolact/ops/reference.py): products and sums are never contracted.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define YOLACT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define YOLACT_HOST_DEVICE inline
#endif

namespace yolact {

// -ffp-contract=off keeps the host compiler from contracting; nvcc contracts unless it sees this.
YOLACT_HOST_DEVICE float multiply(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

YOLACT_HOST_DEVICE float smaller(float a, float b) { return a < b ? a : b; }
YOLACT_HOST_DEVICE float larger(float a, float b) { return a > b ? a : b; }

YOLACT_HOST_DEVICE constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace yolact
