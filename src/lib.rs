//! Rotary runs Mixture-of-Experts language models far larger than the fast memory at hand, and shows how.
//!
//! Each layer keeps a fixed number of expert *slots* in fast memory; experts rotate through them as the
//! router asks, while the rest lies in host memory. This crate is the whole program as a library; the
//! binary in `main.rs` only parses, dispatches and sets the exit code.
//!
//! # The house
//!
//! Lower rooms never import higher ones. From the top:
//!
//! | room | what it holds |
//! |---|---|
//! | [`cli`], [`config`] | command line; user configuration (TOML, XDG) |
//! | [`ui`] | terminal front end: state, pure update, panes, theme, keys, terminal lifecycle |
//! | [`report`] | the same engine without a screen: run, bench, plan, inspect, check, replay |
//! | [`trace`] | record, replay and simulate sessions; plays one through the engine's lanes |
//! | [`engine`] | the inference thread: commands in, events out; generation, sampling, prefix reuse |
//! | [`events`] | the only types that engine and screen share: plain data |
//! | [`model`] | architectures, one file each, over shared layers |
//! | [`experts`] | the heart: store (host tier), slots (device tier), schedule (pure), policy, curve |
//! | [`gpu`] | a GPU as the engine needs one: memory, two streams, kernels; a simulated one beside it |
//! | [`kernels`] | quantized dot products and the worker pool that runs them |
//! | [`text`] | tokenizer and chat template from the GGUF, streaming decoder |
//! | [`gguf`] | mapped reader that trusts nothing |
//! | [`mod@size`] | bytes for people |
//!
//! `docs/architecture.md` follows one token through these rooms.

pub mod cli;
pub mod config;
pub mod demo;

pub mod engine;
pub mod events;
pub mod experts;
pub mod gguf;
pub mod gpu;
pub mod kernels;
pub mod model;
pub mod report;
pub mod size;
pub mod text;
pub mod trace;
pub mod ui;
