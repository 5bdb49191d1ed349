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
use crate::events::{ForeseeChoice, Foreseen, Phase};

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
    /// Distance from the cut of each expert of the token at hand, `[experts]`.
    distance: Vec<f32>,
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

fn chance(curve: [f32; 2], distance: f32) -> f32 {
    1.0 / (1.0 + (-(curve[0] * distance + curve[1])).exp())
}

impl Foresight {
    /// Nothing seen yet of so many layers.
    #[must_use]
    pub fn new(layers: usize, experts: usize, top_k: usize) -> Self {
        let view = |curve| View { early: Vec::new(), offset: vec![0.0; experts], distance: Vec::new(), curve, tokens: 0 };
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

    /// What the router of `layer` says `lead` layers before its turn, `scores` `[experts]`: who is how likely, in 255ths, the hardly likely left out. `None` if that says
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
        let mean = view.distance.iter().sum::<f32>() / n;
        let deviation = (view.distance.iter().map(|d| (d - mean).powi(2)).sum::<f32>() / n).sqrt();
        if !(deviation > 0.0 && deviation.is_finite()) {
            view.early.clear();
            return None;
        }
        view.distance.iter_mut().for_each(|d| *d = (*d - cut) / deviation);
        told.clear();
        for (expert, &d) in view.distance.iter().enumerate() {
            let likely = (chance(view.curve, d) * 255.0).round() as u8;
            if likely >= WORTH_TELLING {
                told.push((expert as u16, likely));
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
                *offset += renew * (own - early - *offset);
            }
            let mut slope = [0.0f32; 2];
            for (expert, &d) in view.distance.iter().enumerate() {
                let miss = f32::from(u8::from(used.contains(&(expert as u32)))) - chance(view.curve, d);
                slope[0] += miss * d;
                slope[1] += miss;
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
    pub fn ask_routers(&mut self, choice: ForeseeChoice, top_k: usize) {
        let foresight = || Foresight::new(self.scheduler.layers(), self.scheduler.experts(), top_k);
        self.asking = match choice {
            ForeseeChoice::Never => None,
            ForeseeChoice::Auto => Some(Asking { foresight: foresight(), always: false }),
            ForeseeChoice::Always => Some(Asking { foresight: foresight(), always: true }),
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
