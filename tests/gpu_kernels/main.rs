//! The CUDA kernels against the reference, on the CPU: `src/gpu/kernels/host.cpp` compiles the very headers that nvcc compiles as plain C++, with
//! phases of threads as loops. Every kernel runs with its threads in both orders (a difference is a race) among poisoned memory, of which every byte
//! is compared; and once more with every thread by itself, where what they touch is watched for races and waits in the wrong place (`together.cpp`).
//! What this can't show: that a GPU's shuffles and tensor cores do what stands for them here, and speed.
#![allow(unsafe_code, reason = "calls into the library that is being tested")]

mod attention;
mod cases;
mod faults;
mod host;
mod layout;
mod mailbox;
