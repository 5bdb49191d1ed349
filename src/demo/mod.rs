//! The toy model that is embedded in the binary, so that Rotary opens on a machine that has nothing.
//!
//! A real but tiny `qwen3moe` (17 M parameters, 6 layers of 32 experts, top-4). It is often wrong, and it is
//! labelled as the toy it is wherever it appears. `docs/demo-model.md` has the recipe that made it.

/// Forces the alignment that quantized blocks and f32 tensors want.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static FILE: &Aligned<[u8]> = &Aligned(*include_bytes!("demo.gguf"));

/// The whole GGUF file.
#[must_use]
pub fn gguf() -> &'static [u8] {
    &FILE.0
}
