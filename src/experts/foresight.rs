//! What the routers of later layers say of a token before their turn.
//!
//! A layer adds little to the hidden state, so the router of the next layer, or of the one after it, applied to the state that is there
//! already, scores experts much as it will. (Eliseev and Mazur, arXiv 2312.17238, guess the next layer's experts so; FATE, arXiv 2502.12224, reports
//! 78.8 % right.) This turns such *early scores* into likelihoods of use, a pure function of the scores so far:
//!
//! - **Offset.** What the layers in between will add is not random: for each expert the mean of its score less its early score is learned as the session goes, and
//!   added. It is of the text more than of the model, so it is not kept.
//! - **Cut.** Half way between the last of the `top_k` largest and the next, and distances from it in standard deviations: no scale of a model's scores enters.
//! - **Likelihood.** A logistic function of that distance. Its slope and place begin with what was fitted on sessions of the toy model, and follow the outcomes,
//!   layer by layer, so that a layer of which little can be foreseen is not trusted.
//!
//! `docs/scheduling.md` has what it foresees and what that is worth.

use super::policy::Policy;
use super::schedule::LEAD;
use super::Experts;
use crate::events::{Foreseen, Phase, When};

/// Slope and place of the logistic function for one and two layers ahead.
const FITTED: [[f32; 2]; LEAD] = [[4.37, -0.60], [3.07, -0.70]];
/// How quickly they follow, and the bounds of the slope.
const FOLLOW: f32 = 0.01;
const SLOPES: [f32; 2] = [0.1, 12.0];
/// The least part of an offset that one token renews, and the tokens that the first counts for.
const RENEW: f32 = 0.05;
const FIRST: f32 = 4.0;
/// What is less likely is not told, in 255ths.
const WORTH_TELLING: u8 = 13;

/// One layer seen from one distance.
#[derive(Clone, Debug)]
struct View {
    /// Early scores of the token at hand, `[experts]`; empty if there were none.
    early: Vec<f32>,
    /// Learned, `[experts]`.
    offset: Vec<f32>,
    /// Of the token at hand, `[experts]` each: distance from the cut, and likelihood.
    distance: Vec<f32>,
    chance: Vec<f32>,
    curve: [f32; 2],
    /// Tokens that were learned from.
    tokens: u32,
}

/// What is learned of all layers.
#[derive(Clone, Debug)]
pub struct Foresight {
    experts: usize,
    top_k: usize,
    /// `[layer][lead - 1]`
    views: Vec<[View; LEAD]>,
    sorted: Vec<f32>,
    told: Vec<(u16, u8)>,
}

/// In eight sums beside each other: one after the other would be most of the time that this takes.
fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0f32; 8];
    let chunks = values.chunks_exact(8);
    let rest: f32 = chunks.remainder().iter().map(|&v| f(v)).sum();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(s, &v)| *s += f(v));
    }
    sums.iter().sum::<f32>() + rest
}

/// Most experts are far below the cut. Theirs is less than a 400th and counts as none.
fn chance(curve: [f32; 2], distance: f32) -> f32 {
    let odds = curve[0] * distance + curve[1];
    if odds < -6.0 {
        return 0.0;
    }
    1.0 / (1.0 + (-odds).exp())
}

impl Foresight {
    /// Nothing seen yet of so many layers.
    #[must_use]
    pub fn new(layers: usize, experts: usize, top_k: usize) -> Self {
        let view =
            |curve| View { early: Vec::new(), offset: vec![0.0; experts], distance: Vec::new(), chance: Vec::new(), curve, tokens: 0 };
        Self {
            experts,
            top_k,
            views: (0..layers).map(|_| FITTED.map(view)).collect(),
            sorted: Vec::with_capacity(experts),
            told: Vec::with_capacity(experts),
        }
    }

    /// A token begins: no router has been asked yet.
    pub fn begin_token(&mut self) {
        self.views.iter_mut().flatten().for_each(|v| v.early.clear());
    }

    /// What the router of `layer` says `lead` layers before its turn, `scores` `[experts]` by which it would choose: who is how likely, in 255ths, the hardly likely left out. `None` if that says
    /// nothing: other counts than there are experts, or scores that are not numbers.
    pub fn early(&mut self, layer: usize, lead: usize, scores: &[f32]) -> Option<&[(u16, u8)]> {
        let Self { experts, top_k, sorted, told, .. } = self;
        let view = self.views.get_mut(layer)?.get_mut(lead.checked_sub(1)?)?;
        view.early.clear();
        if scores.len() != *experts || *top_k == 0 || *top_k >= *experts || !scores.iter().all(|s| s.is_finite()) {
            return None;
        }
        view.early.extend_from_slice(scores);
        view.distance.clear();
        view.distance.extend(scores.iter().zip(&view.offset).map(|(s, o)| s + o));
        sorted.clone_from(&view.distance);
        sorted.select_nth_unstable_by(*top_k, |a, b| b.total_cmp(a));
        let last = sorted[..*top_k].iter().copied().fold(f32::INFINITY, f32::min);
        let cut = f32::midpoint(last, sorted[*top_k]);
        let n = *experts as f32;
        let mean = sum(&view.distance, |d| d) / n;
        let deviation = (sum(&view.distance, |d| (d - mean) * (d - mean)) / n).sqrt();
        if !(deviation > 0.0 && deviation.is_finite()) {
            view.early.clear();
            return None;
        }
        view.distance.iter_mut().for_each(|d| *d = (*d - cut) / deviation);
        view.chance.clear();
        view.chance.extend(view.distance.iter().map(|&d| chance(view.curve, d)));
        told.clear();
        for (expert, &p) in view.chance.iter().enumerate() {
            let likely = p * 255.0 + 0.5;
            if likely >= f32::from(WORTH_TELLING) {
                told.push((expert as u16, likely as u8));
            }
        }
        Some(told)
    }

    /// The turn of `layer` has come: its scores, and which experts the token asks for. To be learned from.
    pub fn turn(&mut self, layer: usize, scores: &[f32], used: &[u32]) {
        let top_k = self.top_k;
        let known = scores.len() == self.experts && scores.iter().all(|s| s.is_finite());
        for view in self.views.get_mut(layer).into_iter().flatten().filter(|v| known && !v.early.is_empty()) {
            let renew = (1.0 / (FIRST + view.tokens as f32)).max(RENEW);
            for ((offset, own), early) in view.offset.iter_mut().zip(scores).zip(&view.early) {
                let more = renew * (own - early - *offset);
                *offset += if more.is_finite() { more } else { 0.0 };
            }
            // Of the logarithm of what the likelihoods gave to what came true.
            let mut slope = [0.0f32; 2];
            for (d, p) in view.distance.iter().zip(&view.chance) {
                slope[0] -= p * d;
                slope[1] -= p;
            }
            for d in used.iter().filter_map(|&e| view.distance.get(e as usize)) {
                slope[0] += d;
                slope[1] += 1.0;
            }
            let step = FOLLOW / top_k as f32;
            view.curve[0] = (view.curve[0] + step * slope[0]).clamp(SLOPES[0], SLOPES[1]);
            view.curve[1] = (view.curve[1] + step * slope[1]).clamp(-SLOPES[1], SLOPES[1]);
            view.tokens = view.tokens.saturating_add(1);
        }
    }
}

/// For [`Experts`]: what is learned, and whether to ask where nothing comes ahead.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    foresight: Foresight,
    always: bool,
}

impl Experts {
    /// Have routers asked before their turn from now on, of a model whose tokens use `top_k` experts in a layer.
    pub fn ask_routers(&mut self, choice: When, top_k: usize) {
        let foresight = || Foresight::new(self.scheduler.layers(), self.scheduler.experts(), top_k);
        self.asking = match choice {
            When::Never => None,
            When::Auto => Some(Asking { foresight: foresight(), always: false }),
            When::Always => Some(Asking { foresight: foresight(), always: true }),
        };
    }

    /// Whether the routers of the next layers are to be asked in the step at hand.
    #[must_use]
    pub fn asks_routers(&self) -> bool {
        let useful = self.scheduler.policy() == Policy::Rotary && self.scheduler.admission().ahead > 0;
        self.asking.as_ref().is_some_and(|a| a.always || useful) && self.phase == Phase::Decode && self.tokens == 1
    }

    /// Before the tick of `layer` for one token: the scores of its router, `own` `[experts]`, what the routers of the next layers say of the same token, `early` `[up to 2 * experts]`,
    /// nearest first, and which experts the layer will use.
    pub fn foresee(&mut self, layer: usize, own: &[f32], early: &[f32], used: &[u32]) {
        let Some(Asking { foresight, .. }) = &mut self.asking else { return };
        foresight.turn(layer, own, used);
        for (i, scores) in early.chunks_exact(self.scheduler.experts().max(1)).enumerate().take(LEAD) {
            let (layer, lead) = (layer + 1 + i, 1 + i);
            let Some(likely) = foresight.early(layer, lead, scores) else { continue };
            // If nobody stands out, what followed similar tokens may know more.
            if likely.is_empty() {
                continue;
            }
            self.scheduler.foresee(layer, likely.iter().copied());
            let told = likely.iter().map(|&(expert, likely)| Foreseen { layer: layer as u16, lead: lead as u8, expert, likely });
            self.tally.foreseen.extend(told);
        }
    }

    /// A step begins: what was said of the last token says nothing of the next.
    pub(super) fn forget_foreseen(&mut self) {
        if let Some(asking) = &mut self.asking {
            asking.foresight.begin_token();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXPERTS: usize = 16;

    fn likely(f: &mut Foresight, scores: &[f32]) -> Vec<u16> {
        f.begin_token();
        let told = f.early(1, 1, scores).unwrap();
        told.iter().filter(|(_, p)| *p > 127).map(|(e, _)| *e).collect()
    }

    fn numbers(seed: u64) -> Vec<f32> {
        let mut rng = fastrand::Rng::with_seed(seed);
        (0..EXPERTS).map(|_| rng.f32() * 2.0 - 1.0).collect()
    }

    fn best(scores: &[f32], k: usize) -> Vec<u32> {
        let mut ids: Vec<u32> = (0..scores.len() as u32).collect();
        ids.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]));
        ids.truncate(k);
        ids
    }

    #[test]
    fn whose_scores_stand_out_are_likely_whatever_the_scale() {
        let mut scores = [0.0; EXPERTS];
        (scores[3], scores[11]) = (5.0, 6.0);
        for scale in [1e-6, 1.0, 1e6] {
            let scaled: Vec<f32> = scores.iter().map(|s| s * scale + 3.0 * scale).collect();
            assert_eq!(likely(&mut Foresight::new(2, EXPERTS, 2), &scaled), [3, 11], "{scale}");
        }
    }

    #[test]
    fn what_the_layers_between_always_add_is_learned() {
        let mut f = Foresight::new(2, EXPERTS, 4);
        let added: Vec<f32> = numbers(99).iter().map(|a| a * 3.0).collect();
        let right = |f: &mut Foresight, seed: u64| {
            let early = numbers(seed);
            let own: Vec<f32> = early.iter().zip(&added).map(|(e, a)| e + a).collect();
            let used = best(&own, 4);
            let likely = likely(f, &early);
            f.turn(1, &own, &used);
            likely.iter().filter(|e| used.contains(&u32::from(**e))).count()
        };
        let first: usize = (0..10).map(|i| right(&mut Foresight::new(2, EXPERTS, 4), i)).sum();
        (100..160).for_each(|i| {
            right(&mut f, i);
        });
        let then: usize = (0..10).map(|i| right(&mut f, i)).sum();
        assert!(then > 30 && then > first + 10, "{first} of 40, then {then}");
    }

    #[test]
    fn a_layer_of_which_nothing_can_be_foreseen_is_soon_not_trusted_and_one_that_is_stays() {
        let told = |blind: bool| {
            let mut f = Foresight::new(2, EXPERTS, 4);
            for i in 0..400 {
                let early = numbers(2 * i);
                f.begin_token();
                f.early(1, 1, &early).unwrap();
                let own = if blind { numbers(2 * i + 1) } else { early };
                f.turn(1, &own, &best(&own, 4));
            }
            (1000..1020).map(|i| likely(&mut f, &numbers(i)).len()).sum::<usize>()
        };
        let (blind, seeing) = (told(true), told(false));
        assert!(blind < 8 && seeing > 70, "{blind} of 80 where nothing is known, {seeing} where all is");
    }

    #[test]
    fn scores_that_say_nothing_are_passed_over() {
        let mut f = Foresight::new(2, EXPERTS, 4);
        for scores in [vec![1.0; EXPERTS], vec![f32::NAN; EXPERTS], vec![f32::INFINITY; EXPERTS], vec![0.0; 3], vec![]] {
            assert_eq!(f.early(1, 1, &scores), None);
            f.turn(1, &scores, &[0]);
        }
        let scores = numbers(1);
        assert!(f.early(2, 1, &scores).is_none() && f.early(1, 0, &scores).is_none() && f.early(1, 3, &scores).is_none());
        assert!(Foresight::new(2, EXPERTS, EXPERTS).early(1, 1, &scores).is_none(), "everything is used always");
        assert!(Foresight::new(2, EXPERTS, 0).early(1, 1, &scores).is_none());
    }

    proptest! {
        #[test]
        fn whatever_scores_come_likelihoods_stay_in_order_and_in_range(
            rows in prop::collection::vec((prop::collection::vec(-1e30f32..1e30, EXPERTS), prop::collection::vec(any::<f32>(), EXPERTS)), 1..40),
        ) {
            let mut f = Foresight::new(2, EXPERTS, 4);
            for (early, own) in rows {
                f.begin_token();
                if let Some(told) = f.early(1, 1, &early) {
                    prop_assert!(told.iter().all(|(e, p)| usize::from(*e) < EXPERTS && *p >= WORTH_TELLING));
                    prop_assert!(told.windows(2).all(|w| w[0].0 < w[1].0));
                }
                f.turn(1, &own, &[1, 99, 3]);
                prop_assert!(f.views.iter().flatten().all(|v| v.curve.iter().all(|c| c.is_finite())));
            }
        }
    }

    /// `cargo test --release -- --ignored --nocapture cost_of_foresight`
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_foresight_at_256_experts() {
        const LAYERS: usize = 40;
        let mut rng = fastrand::Rng::with_seed(3);
        let rows: Vec<Vec<f32>> = (0..512).map(|_| (0..256).map(|_| rng.f32() + rng.f32() - rng.f32()).collect()).collect();
        let mut f = Foresight::new(LAYERS, 256, 8);
        let mut times: Vec<f64> = (0..1000)
            .map(|token| {
                let row = |layer: usize, part: usize| &rows[(token * 7 + layer * 3 + part) % rows.len()];
                let start = std::time::Instant::now();
                f.begin_token();
                for layer in 0..LAYERS {
                    f.turn(layer, row(layer, 0), &[1, 20, 30, 77, 100, 180, 200, 255]);
                    for lead in 1..=LEAD {
                        std::hint::black_box(f.early(layer + lead, lead, row(layer, lead)));
                    }
                }
                start.elapsed().as_secs_f64() / LAYERS as f64 * 1e6
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!("{:.2} us per layer (median), {:.2} (a tenth are quicker)", times[times.len() / 2], times[times.len() / 10]);
    }
}
