#pragma once
// CONVOY_VECTOR_CLONES: one function compiled for several instruction sets, chosen when the program starts.
// For loops that the compiler turns into vectors itself and whose results no vector can change: of integers,
// or of floats in a stated order where nothing is fused (CMakeLists.txt). Sanitizers run before the choice
// can be made.

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CONVOY_VECTOR_CLONES
#else
#define CONVOY_VECTOR_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif
