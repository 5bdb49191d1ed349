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

/// Slots per layer that the toy gets when nobody says otherwise: few enough that its experts rotate.
pub const SLOTS: usize = 12;

/// Whether `gguf` is the embedded file.
#[must_use]
pub fn is_it(gguf: &crate::gguf::Gguf) -> bool {
    gguf.parts().first().is_some_and(|p| std::ptr::eq(p.as_ptr(), self::gguf().as_ptr()))
}
