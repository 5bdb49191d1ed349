//! The CUDA kernels against the reference, on the CPU: `src/gpu/kernels/host.cpp` compiles the very headers that nvcc compiles as plain C++, with
//! phases of threads as loops. Every kernel runs with its threads in both orders (a difference is a race) among poisoned memory, of which every byte
//! is compared. What this can't show: that a GPU's barriers and shuffles do what the loops stand for, and speed.
#![allow(unsafe_code, reason = "calls into the library that is being tested")]

mod cases;
mod host;
mod layout;
