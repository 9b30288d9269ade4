// One binary serves every x86-64: a YOLACT_SIMD function is compiled for AVX-512, AVX2 and the baseline, and the loader
// picks. Compilers other than GCC 12 and later build only the baseline.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define YOLACT_X86
#define YOLACT_SIMD __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define YOLACT_SIMD
#endif
