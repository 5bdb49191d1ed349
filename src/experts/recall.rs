//! What the session did next when it last looked like this: experts that are likely soon, from the routing alone.
//!
//! Text repeats itself: words, phrases, names. A token that was read before is routed much as it was then, and so are the
//! tokens that follow it. So the present moment is compared with the last [`SPAN`] tokens: the *likeness* of a past token is
//! the number of experts that it shares with the present one, added up from layer to layer and fading by `FADE` per
//! layer. Experts of the tokens that came *after* similar ones are expected soon.
//!
//! The likeness of two tokens runs on into that of their successors, because layer follows layer and token follows token:
//! the last layers of the tokens before count for the first layers of these. It is kept by the distance between the two.
//!
//! The same likeness tells of the *present* token, too: once some layers have shown which earlier tokens it resembles, it will ask the
//! layers that follow for much the same experts as those did ([`Recall::look_ahead`]).
//!
//! This is nearest-neighbour prediction, or one head of attention whose keys are sets of experts. It knows nothing of a
//! model and needs no training, which is what a session of a few hundred tokens can pay for.

/// How many tokens are remembered, the present one included.
pub const SPAN: usize = 512;
/// Most experts of a token that are remembered, per layer; the best gates come first.
const WIDTH: usize = 16;
/// What is left of likeness after one more layer: some ten layers tell which token this is.
const FADE: f32 = 0.9;
/// What is left of an expectation one token later.
const REACH: f32 = 0.6;
/// Past tokens whose part in the expectation is below this fraction of the whole are passed over.
const LEAST: f32 = 1e-3;

/// The routing of the last tokens, and what it lets expect.
///
/// Remembered tokens have places in a ring; the likeness of a past token is kept at its place for the layer at hand, and
/// moves on by one place when a token begins, so that it stays with the same distance.
#[derive(Clone, Debug)]
pub struct Recall {
    experts: usize,
    /// `[layers * SPAN * WIDTH]`: ids of each remembered token.
    ids: Vec<u16>,
    /// `[layers * SPAN]`: how many of them there are; 0 for steps of several tokens, whose tokens can't be told apart.
    len: Vec<u8>,
    /// `[layers * experts]`: the same by expert, a bit for each place whose token used it.
    places: Vec<[u64; SPAN / 64]>,
    /// The present token's place.
    now: usize,
    /// Places that have been in use so far: the first ones.
    filled: usize,
    /// `part` is of the present likeness.
    weighed: bool,
    /// Whether the step at hand is one token.
    single: bool,
    /// `[SPAN]`: likeness of the present token with each remembered one, and with itself.
    alike: Vec<f32>,
    /// `[SPAN]`: experts of the present tick that each remembered token used, too; then its part in the expectation.
    shared: Vec<u8>,
    part: Vec<f32>,
    /// Places whose part counts, with it.
    near: Vec<(u16, f32)>,
    /// `[layers * experts]`, see [`Recall::expected`].
    expected: Vec<f32>,
    /// `[experts]`, see [`Recall::soon`].
    soon: Vec<f32>,
}

impl Recall {
    /// Nothing remembered.
    #[must_use]
    pub fn new(layers: usize, experts: usize) -> Self {
        Self {
            experts,
            ids: vec![0; layers * SPAN * WIDTH],
            len: vec![0; layers * SPAN],
            places: vec![[0; SPAN / 64]; layers * experts],
            now: 0,
            filled: 1,
            weighed: false,
            single: false,
            alike: vec![0.0; SPAN],
            shared: vec![0; SPAN],
            part: vec![0.0; SPAN],
            near: Vec::with_capacity(SPAN),
            expected: vec![0.0; layers * experts],
            soon: vec![0.0; experts],
        }
    }

    /// A step of `tokens` tokens begins; the oldest remembered one is forgotten.
    pub fn begin_step(&mut self, tokens: u32) {
        self.single = tokens == 1;
        self.now = (self.now + 1) % SPAN;
        self.filled = SPAN.min(self.filled + 1);
        self.weighed = false;
        self.alike.rotate_right(1);
        let (word, bit) = (self.now / 64, 1u64 << (self.now % 64));
        for (layer, len) in self.len.chunks_exact_mut(SPAN).enumerate() {
            let ids = &self.ids[(layer * SPAN + self.now) * WIDTH..];
            for &expert in &ids[..usize::from(std::mem::take(&mut len[self.now]))] {
                self.places[layer * self.experts + usize::from(expert)][word] &= !bit;
            }
        }
    }

    /// The experts of one layer of the step at hand, each once and below the number of experts, best gate first.
    pub fn tick(&mut self, layer: usize, routed: impl Iterator<Item = u16>) {
        if !self.single {
            return;
        }
        let ids = &mut self.ids[layer * SPAN * WIDTH..][..SPAN * WIDTH];
        let len = &mut self.len[layer * SPAN..][..SPAN];
        let places = &mut self.places[layer * self.experts..][..self.experts];
        let now = self.now;
        self.shared[..self.filled].fill(0);
        let mut count = 0;
        for (place, expert) in ids[now * WIDTH..][..WIDTH].iter_mut().zip(routed) {
            *place = expert;
            count += 1;
            let places = &mut places[usize::from(expert)];
            places[now / 64] |= 1 << (now % 64);
            for (word, &bits) in places.iter().enumerate() {
                let mut bits = bits;
                while bits != 0 {
                    self.shared[word * 64 + bits.trailing_zeros() as usize] += 1;
                    bits &= bits - 1;
                }
            }
        }
        if count == 0 {
            return;
        }
        len[now] = count;
        for (alike, &shared) in self.alike[..self.filled].iter_mut().zip(&self.shared) {
            *alike = *alike * FADE + f32::from(shared);
        }
        self.weighed = false;
    }

    /// Bring [`Recall::expected`] of the layer up to date with its tick in this step.
    pub fn foresee(&mut self, layer: usize) {
        let now = self.now;
        let routed = self.len[layer * SPAN + now] > 0;
        if routed {
            self.weigh();
        }
        let expected = &mut self.expected[layer * self.experts..][..self.experts];
        expected.fill(0.0);
        if !routed {
            return;
        }
        let ids = &self.ids[layer * SPAN * WIDTH..][..SPAN * WIDTH];
        let len = &self.len[layer * SPAN..][..SPAN];
        let mut sums = [0.0f32; 8];
        for parts in self.part.chunks_exact(sums.len()) {
            sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
        }
        let total: f32 = sums.iter().sum();
        if total <= 0.0 {
            return;
        }
        let mut strength = 0.0;
        for place in (now + 1..self.filled).chain(0..now) {
            strength = strength * REACH + self.part[place];
            if strength > total * LEAST {
                let next = (place + 1) % SPAN;
                for &expert in &ids[next * WIDTH..][..usize::from(len[next])] {
                    expected[usize::from(expert)] += strength;
                }
            }
        }
        let scale = (1.0 - REACH) / total;
        expected.iter_mut().for_each(|e| *e *= scale);
    }

    /// Part of every remembered token in what is expected, by its likeness with the present one so far.
    fn weigh(&mut self) {
        if std::mem::replace(&mut self.weighed, true) {
            return;
        }
        let own = 1.0 / self.alike[self.now];
        for (part, &alike) in self.part[..self.filled].iter_mut().zip(&self.alike) {
            *part = weight(alike * own);
        }
        self.part[self.now] = 0.0;
        let parts = &self.part[..self.filled];
        let least = LEAST * parts.iter().copied().fold(0.0, f32::max);
        self.near.clear();
        self.near.extend(parts.iter().enumerate().filter(|(_, &part)| part > least).map(|(place, &part)| (place as u16, part)));
    }

    /// Bring [`Recall::soon`] up to date for a layer whose tick in this step is still to come. The ticks of the layers before tell which
    /// token this is; before the first of them, likeness with the tokens before is all there is, and what followed those is expected.
    pub fn look_ahead(&mut self, layer: usize) {
        self.soon.fill(0.0);
        if !self.single || self.alike[self.now] <= 0.0 || self.len[layer * SPAN + self.now] > 0 {
            return;
        }
        self.weigh();
        let ids = &self.ids[layer * SPAN * WIDTH..][..SPAN * WIDTH];
        let len = &self.len[layer * SPAN..][..SPAN];
        let mut total = 0.0;
        for &(place, part) in &self.near {
            let place = usize::from(place);
            let used = &ids[place * WIDTH..][..usize::from(len[place])];
            // Steps of several tokens have none.
            total += if used.is_empty() { 0.0 } else { part };
            for &expert in used {
                self.soon[usize::from(expert)] += part;
            }
        }
        if total > 0.0 {
            self.soon.iter_mut().for_each(|s| *s /= total);
        }
    }

    /// How likely the *present* token is to use each expert of the layer of the last [`Recall::look_ahead`], 0 to 1: the part of the tokens
    /// alike which used it there. All zero in a step of several tokens.
    #[must_use]
    pub fn soon(&self) -> &[f32] {
        &self.soon
    }

    /// How much the expert is expected in the next tokens, 0 to 1: the part of similar moments that it followed, sooner
    /// counting more. As of the last [`Recall::foresee`] for the layer; 0 if that was in a step of several tokens.
    #[must_use]
    pub fn expected(&self, layer: usize, expert: u16) -> f32 {
        self.expected[layer * self.experts + usize::from(expert)]
    }
}

/// Part of a past token in the expectation, by its likeness from 0 to 1. Steep: one close match says more than many weak ones.
fn weight(likeness: f32) -> f32 {
    let cube = likeness * likeness * likeness;
    cube * cube
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXPERTS: usize = 9;

    /// The same from the definition: every past pair of tokens is compared anew.
    fn plainly(tokens: &[Vec<Vec<u16>>], layer: usize) -> Vec<f64> {
        let layers = tokens[0].len();
        // The ticks up to now, one after another; a pair is compared tick by tick.
        let ticks: Vec<&Vec<u16>> = tokens.iter().flatten().take((tokens.len() - 1) * layers + layer + 1).collect();
        let last = tokens.len() - 1;
        let likeness = |back: usize| {
            ticks.iter().enumerate().fold(0.0, |sum, (i, now)| {
                let shared = i.checked_sub(back * layers).map_or(0, |j| now.iter().filter(|e| ticks[j].contains(e)).count());
                if now.is_empty() {
                    sum
                } else {
                    sum * f64::from(FADE) + shared as f64
                }
            })
        };
        let own = likeness(0);
        let parts: Vec<f64> = (1..=last).map(|back| (likeness(back) / own).powi(6)).collect();
        let total: f64 = parts.iter().sum();
        let mut expected = vec![0.0; EXPERTS];
        for (i, part) in parts.iter().enumerate() {
            let like = last - (i + 1);
            for (after, later) in tokens[like + 1..=last].iter().enumerate() {
                let fade = f64::from(REACH).powi(after as i32);
                for &e in &later[layer] {
                    expected[usize::from(e)] += part * fade * (1.0 - f64::from(REACH)) / total.max(1e-30);
                }
            }
        }
        expected
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn it_expects_what_comparing_all_moments_anew_expects(
            sets in prop::collection::vec(prop::collection::vec(prop::collection::btree_set(0u16..EXPERTS as u16, 1..4), 3), 1..40),
        ) {
            let tokens: Vec<Vec<Vec<u16>>> =
                sets.iter().map(|t| t.iter().map(|s| s.iter().copied().collect()).collect()).collect();
            let mut recall = Recall::new(3, EXPERTS);
            for (i, token) in tokens.iter().enumerate() {
                recall.begin_step(1);
                for (layer, set) in token.iter().enumerate() {
                    recall.tick(layer, set.iter().copied());
                    recall.foresee(layer);
                    for (e, plain) in plainly(&tokens[..=i], layer).into_iter().enumerate() {
                        let got = recall.expected(layer, e as u16);
                        prop_assert!((0.0..=1.0001).contains(&got));
                        prop_assert!((f64::from(got) - plain).abs() < 0.02, "token {}, layer {}, expert {}: {} {}", i, layer, e, got, plain);
                    }
                }
            }
        }
    }

    #[test]
    fn what_followed_a_moment_is_expected_when_it_returns() {
        let mut recall = Recall::new(2, 64);
        let mut say = |token: u16| {
            recall.begin_step(1);
            for layer in 0..2 {
                recall.tick(layer, [token, token + 1].into_iter());
                recall.foresee(layer);
            }
            (recall.expected(1, 20), recall.expected(1, 40))
        };
        // 10 is followed by 20, 30 by 40.
        for token in [10, 20, 30, 40, 50, 54] {
            say(token);
        }
        let (twenty, forty) = say(10);
        assert!(twenty > 0.3 && twenty > 2.0 * forty, "{twenty} {forty}");
        let (twenty, forty) = say(30);
        assert!(forty > 0.3 && forty > 2.0 * twenty, "{twenty} {forty}");
    }

    #[test]
    fn a_token_read_again_will_ask_later_layers_for_what_it_asked_before() {
        let mut recall = Recall::new(4, 64);
        let mut say = |token: u16| {
            recall.begin_step(1);
            let mut seen = Vec::new();
            for layer in 0..4 {
                if layer > 0 {
                    recall.look_ahead(layer);
                    seen.push(recall.soon().to_vec());
                }
                recall.tick(layer, [token, token + layer as u16].into_iter());
            }
            seen
        };
        for token in [10, 20, 30, 40, 50, 54] {
            say(token);
        }
        for (layer, soon) in say(20).iter().enumerate().map(|(i, s)| (i + 1, s)) {
            assert!(soon[20] > 0.9 && soon[20 + layer] > 0.9, "layer {layer}");
            assert!(soon.iter().all(|p| (0.0..=1.0).contains(p)));
            assert!(soon[30] < 0.1);
        }
    }

    #[test]
    fn before_the_first_layer_what_followed_the_last_token_is_likely() {
        let mut recall = Recall::new(2, 64);
        for token in [10, 20, 30, 10] {
            recall.begin_step(1);
            for layer in 0..2 {
                recall.tick(layer, std::iter::once(token));
            }
        }
        recall.begin_step(1);
        recall.look_ahead(0);
        assert!(recall.soon()[20] > 0.9 && recall.soon()[30] < 0.1);
        recall.begin_step(5);
        recall.look_ahead(0);
        assert!(recall.soon().iter().all(|&p| p == 0.0), "a chunk's tokens can't be told apart");
    }

    #[test]
    fn the_ring_forgets_what_is_older_than_its_span() {
        let mut recall = Recall::new(1, 8);
        for token in 0..3 * SPAN {
            recall.begin_step(1);
            let e = if token == 10 { 7 } else { (token % 4) as u16 };
            recall.tick(0, std::iter::once(e));
            recall.foresee(0);
            let known = token > 10 && token < 10 + SPAN;
            assert!(known || recall.expected(0, 7) == 0.0 || token == 10, "token {token}");
        }
        assert!((0..4).map(|e| recall.expected(0, e)).sum::<f32>() > 0.9);
    }

    #[test]
    fn steps_of_several_tokens_are_passed_over() {
        let mut recall = Recall::new(1, 8);
        for tokens in [1, 1, 300, 1, 300] {
            recall.begin_step(tokens);
            recall.tick(0, 0..8);
            recall.foresee(0);
            if tokens > 1 {
                assert!((0..8).all(|e| recall.expected(0, e) == 0.0));
            }
        }
        recall.begin_step(1);
        recall.tick(0, std::iter::empty());
        recall.foresee(0);
        assert!((0..8).all(|e| recall.expected(0, e) == 0.0));
    }
}
