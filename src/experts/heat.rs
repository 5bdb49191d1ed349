//! Heat that outlives a session: how much each expert of a model was used, older uses faded. It fills slots when the model is
//! opened again, hottest first.
//!
//! The file is `docs/trace-format.md`'s "Heat". A file that is cut, damaged, of another model or of a later version is refused as a
//! whole; it is a cache, and nothing is lost with it.

use super::schedule::Routed;

/// Begins every file.
const MAGIC: [u8; 8] = *b"\x89ROTHEAT";
/// The version that is written, and the only one that is read.
const VERSION: u16 = 1;
/// Most experts, in all layers together.
const MAX_CELLS: usize = 1 << 20;
/// Bytes before the rates: magic, version, zero, layers, experts, tokens, fingerprint.
const HEAD: usize = 8 + 2 + 2 + 4 + 4 + 8 + 16;
/// Largest file.
pub const MAX_FILE: usize = HEAD + 4 * MAX_CELLS + 8;
/// Tokens after which a use counts half.
const HALF_LIFE: f64 = 2048.0;
/// Largest weight of a new use before all are scaled back.
const RESCALE_AT: f64 = 1e120;

/// Why kept heat can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeatError {
    /// Not a heat file, or not all of one.
    #[error("it is no heat file, or a damaged one ({0})")]
    Damaged(&'static str),
    /// From another program.
    #[error("it is of version {0}; this program reads {VERSION}")]
    Version(u16),
    /// Of another model.
    #[error("it is of another model (its content hash is {0})")]
    Foreign(String),
    /// The hash fits, the shape does not.
    #[error("it is of {layers} layers with {experts} experts, which the model has not")]
    Shape {
        /// Layers in the file.
        layers: u32,
        /// Experts per layer in the file.
        experts: u32,
    },
}

/// Use of every expert, faded.
#[derive(Clone, Debug)]
pub struct Heat {
    layers: usize,
    experts: usize,
    /// Tokens behind it, of all sessions.
    tokens: u64,
    /// `[layers * experts]`, in units that grow.
    uses: Vec<f64>,
    /// What a use now adds.
    unit: f64,
}

impl Heat {
    /// Nothing used yet. A model with more than a million experts is not kept account of.
    #[must_use]
    pub fn new(layers: usize, experts: usize) -> Self {
        let cells = layers.checked_mul(experts).filter(|n| *n <= MAX_CELLS).unwrap_or(0);
        Self { layers, experts, tokens: 0, uses: vec![0.0; cells], unit: 1.0 }
    }

    /// One layer of one step.
    pub fn note(&mut self, layer: usize, routed: &[Routed]) {
        let Some(row) = self.uses.get_mut(layer * self.experts..(layer + 1) * self.experts) else { return };
        for r in routed {
            if let Some(uses) = row.get_mut(usize::from(r.expert)) {
                *uses += f64::from(r.tokens) * self.unit;
            }
        }
    }

    /// A step is over: older uses fade by its tokens.
    pub fn end_step(&mut self, tokens: u32) {
        self.tokens = self.tokens.saturating_add(u64::from(tokens));
        self.unit *= 2f64.powf(f64::from(tokens) / HALF_LIFE);
        if self.unit >= RESCALE_AT {
            let scale = if self.unit.is_finite() { 1.0 / self.unit } else { 0.0 };
            self.uses.iter_mut().for_each(|u| *u *= scale);
            self.unit = 1.0;
        }
    }

    /// Tokens behind it, of all sessions.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The experts of a layer that were used, hottest first; equals by number.
    #[must_use]
    pub fn ranked(&self, layer: usize) -> Vec<u16> {
        let row = self.uses.get(layer * self.experts..(layer + 1) * self.experts).unwrap_or(&[]);
        let mut used: Vec<u16> = (0..row.len()).filter(|&e| row[e] > 0.0).map(|e| e as u16).collect();
        used.sort_by(|&a, &b| row[usize::from(b)].total_cmp(&row[usize::from(a)]).then(a.cmp(&b)));
        used
    }

    /// As a file. `fingerprint` is the model's content hash.
    #[must_use]
    pub fn encode(&self, fingerprint: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + 4 * self.uses.len() + 8);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend([0, 0]);
        out.extend((self.layers as u32).to_le_bytes());
        out.extend((self.experts as u32).to_le_bytes());
        out.extend(self.tokens.to_le_bytes());
        let mut hash = [0; 16];
        for (to, from) in hash.iter_mut().zip(fingerprint.bytes()) {
            *to = from;
        }
        out.extend(hash);
        for uses in &self.uses {
            out.extend(((uses / self.unit) as f32).to_le_bytes());
        }
        out.extend(sum(&out).to_le_bytes());
        out
    }

    /// From a file of the model with this content hash and shape. It may have one layer more or fewer: the last one, which the model has if its block that guesses is loaded.
    ///
    /// # Errors
    /// Why it can't be used.
    pub fn decode(bytes: &[u8], fingerprint: &str, layers: usize, experts: usize) -> Result<Self, HeatError> {
        let damaged = HeatError::Damaged;
        if bytes.len() < HEAD + 8 || bytes.len() > MAX_FILE {
            return Err(damaged("its length"));
        }
        if bytes[..8] != MAGIC {
            return Err(damaged("its beginning"));
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(HeatError::Version(version));
        }
        let (content, check) = bytes.split_at(bytes.len() - 8);
        if sum(content).to_le_bytes() != check {
            return Err(damaged("its sum"));
        }
        let number = |at: usize| u32::from_le_bytes([content[at], content[at + 1], content[at + 2], content[at + 3]]);
        let (their_layers, their_experts) = (number(12), number(16));
        let tokens = u64::from(number(20)) | u64::from(number(24)) << 32;
        let hash: String = content[28..HEAD].iter().filter(|b| b.is_ascii_graphic()).map(|&b| char::from(b)).collect();
        if hash != fingerprint {
            return Err(HeatError::Foreign(hash));
        }
        let mut heat = Self::new(layers, experts);
        let (rows, kept) = (their_layers as usize, (content.len() - HEAD) / 4);
        // Whoever keeps no account of the many has kept nothing.
        let whole = if heat.uses.is_empty() { kept == 0 } else { Some(kept) == rows.checked_mul(experts) };
        let fits = rows.abs_diff(layers) <= 1 && their_experts as usize == experts && whole && content.len() % 4 == HEAD % 4;
        if !fits {
            return Err(HeatError::Shape { layers: their_layers, experts: their_experts });
        }
        for (uses, four) in heat.uses.iter_mut().zip(content[HEAD..].chunks_exact(4)) {
            let value = f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
            if !(value.is_finite() && value >= 0.0) {
                return Err(damaged("a value"));
            }
            *uses = f64::from(value);
        }
        heat.tokens = tokens;
        Ok(heat)
    }
}

/// FNV-1a, 64 bits: tells damage from what was written. Nobody is kept from forging a cache of his own.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "0123456789abcdef";

    fn routed(ids: &[u16]) -> Vec<Routed> {
        ids.iter().map(|&expert| Routed { expert, tokens: 1, weight: 1.0 }).collect()
    }

    fn used(steps: &[Vec<u16>]) -> Heat {
        let mut heat = Heat::new(2, 8);
        for ids in steps {
            heat.note(1, &routed(ids));
            heat.end_step(1);
        }
        heat
    }

    #[test]
    fn the_hottest_come_first_and_old_use_fades() {
        let mut heat = used(&[vec![3, 5], vec![3, 1], vec![3]]);
        assert_eq!(heat.ranked(1), [3, 1, 5]);
        assert!(heat.ranked(0).is_empty() && heat.ranked(9).is_empty());
        heat.end_step(100_000);
        heat.note(1, &routed(&[6]));
        assert_eq!(heat.ranked(1)[0], 6);
        assert_eq!(heat.tokens(), 100_003);
    }

    #[test]
    fn foreign_later_and_misshapen_heat_is_told_apart() {
        let bytes = used(&[vec![1]]).encode(HASH);
        let of = |hash: &str, layers, experts| Heat::decode(&bytes, hash, layers, experts).map(|_| ()).unwrap_err();
        assert_eq!(of("fedcba9876543210", 2, 8), HeatError::Foreign(HASH.into()));
        assert_eq!(of(HASH, 2, 9), HeatError::Shape { layers: 2, experts: 8 });
        assert_eq!(of(HASH, 4, 8), HeatError::Shape { layers: 2, experts: 8 });
        let mut later = bytes.clone();
        later[8] = 2;
        assert_eq!(Heat::decode(&later, HASH, 2, 8).unwrap_err(), HeatError::Version(2));
    }

    #[test]
    fn a_block_that_guesses_may_be_loaded_now_and_not_then() {
        let mut heat = used(&[vec![3, 5], vec![3]]);
        heat.note(0, &routed(&[2]));
        let bytes = heat.encode(HASH);
        let more = Heat::decode(&bytes, HASH, 3, 8).unwrap();
        assert_eq!((more.ranked(0), more.ranked(1), more.ranked(2).len()), (vec![2], vec![3, 5], 0));
        let fewer = Heat::decode(&bytes, HASH, 1, 8).unwrap();
        assert_eq!((fewer.ranked(0), fewer.ranked(1).len()), (vec![2], 0));
        assert_eq!(Heat::decode(&more.encode(HASH), HASH, 2, 8).unwrap().encode(HASH), bytes);
    }

    proptest! {
        #[test]
        fn heat_comes_back_as_it_was_kept(steps in prop::collection::vec(prop::collection::vec(0u16..8, 1..5), 0..60)) {
            let heat = used(&steps);
            let back = Heat::decode(&heat.encode(HASH), HASH, 2, 8).unwrap();
            prop_assert_eq!(back.ranked(1).len(), heat.ranked(1).len());
            prop_assert_eq!(back.tokens(), heat.tokens());
            prop_assert_eq!(back.encode(HASH), heat.encode(HASH));
        }

        #[test]
        fn no_damage_goes_unseen(at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>()) {
            let whole = used(&[vec![1, 2], vec![2, 3]]).encode(HASH);
            let mut bent = whole.clone();
            let at = at.index(bent.len());
            bent[at] ^= 1 << bit;
            prop_assert!(Heat::decode(&bent, HASH, 2, 8).is_err());
            prop_assert!(Heat::decode(&whole[..cut.index(whole.len())], HASH, 2, 8).is_err());
        }

        #[test]
        fn any_bytes_are_refused_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Heat::decode(&bytes, HASH, 2, 8).is_err());
        }
    }
}
