//! Dense feed-forwards, shared experts and routing on the device. The routed experts themselves are the slots' business.

use super::super::feed_forward::{Dense, FeedForward};
use super::super::router::Gating;
use super::super::ModelError;
use super::map::{apply, apply_gated, takes_gate, vector, Map, Rows, Target};
use super::workspace::{Choice, Workspace};
use super::{Pass, Recorded};
use crate::experts::tier::DeviceRows;
use crate::experts::{Experts, Routing};
use crate::gpu::params::{launch, Finite, Route, RoutedBias, SwiGlu};
use crate::gpu::talk::Talk;
use crate::gpu::{Address, Device, Lane, Memory};

struct DeviceDense {
    gate: Map,
    up: Map,
    down: Map,
}

impl DeviceDense {
    fn new(device: &dyn Device, dense: &Dense) -> Result<Self, ModelError> {
        Ok(Self { gate: Map::new(device, &dense.gate)?, up: Map::new(device, &dense.up)?, down: Map::new(device, &dense.down)? })
    }

    fn ff(&self) -> usize {
        self.gate.rows
    }

    /// Where gate, up and weight go.
    fn places(&self, work: &Workspace, weight: Option<&Map>) -> [Rows; 3] {
        let ff = self.ff();
        let wide = work.wide(2 * ff + weight.map_or(0, |w| w.rows));
        [wide, wide.right(ff), wide.right(2 * ff)]
    }

    /// The maps that read `h`.
    fn first<'a>(&'a self, work: &Workspace, weight: Option<&'a Map>) -> impl Iterator<Item = (&'a Map, Target)> {
        let places = self.places(work, weight).map(Target::set);
        [Some(&self.gate), Some(&self.up), weight].into_iter().zip(places).filter_map(|(map, target)| map.map(|m| (m, target)))
    }

    /// `x += sigmoid(weight h) * down(silu(gate h) * up h)`, without the weight if there is none.
    fn forward(&self, pass: &Pass<'_>, weight: Option<&Map>) -> Result<(), ModelError> {
        apply(pass.device, pass.h, pass.tokens, &self.first(pass.work, weight).collect::<Vec<_>>())?;
        self.second(pass, weight)
    }

    /// What follows those.
    fn second(&self, pass: &Pass<'_>, weight: Option<&Map>) -> Result<(), ModelError> {
        let Pass { device, work, tokens, .. } = *pass;
        let ff = self.ff();
        let [wide, up, scale] = self.places(work, weight);
        let target = Target { scale: weight.map(|_| scale), ..Target::add(pass.x) };
        if takes_gate(&self.down, tokens) {
            return apply_gated(device, up, Some(wide), tokens, &[(&self.down, target)]);
        }
        let inner = work.middle(ff);
        let (count, len, stride) = (tokens as u32, ff as u32, wide.stride as u32);
        launch(device, &SwiGlu { gate: wide.at, up: up.at, y: inner.at, tokens: count, len, stride, pad: 0 }, &[])?;
        apply(device, inner, tokens, &[(&self.down, target)])
    }
}

/// What follows the mixer in a layer.
pub(super) enum DeviceFeedForward {
    Dense(Box<DeviceDenseOnly>),
    Moe(Box<DeviceMoe>),
}

/// Every token uses all of it.
pub(super) struct DeviceDenseOnly(DeviceDense);

/// A router, and the expert that every token uses, if there is one.
pub(super) struct DeviceMoe {
    scores: Map,
    /// The routers of the next layers; see [`super::super::early`].
    early: Option<Map>,
    gating: Gating,
    index: usize,
    /// `[experts, hidden]`
    bias: Option<Memory>,
    shared: Option<(Map, DeviceDense)>,
}

impl DeviceFeedForward {
    /// `file` is for messages.
    pub(super) fn new(device: &dyn Device, layer: &FeedForward, file: &str) -> Result<Self, ModelError> {
        Ok(match layer {
            FeedForward::DenseAndRouted(_) => {
                let what = "experts beside a dense feed-forward have no GPU kernels yet";
                return Err(ModelError::NotOnDevice { file: file.to_owned(), what });
            }
            FeedForward::Dense(dense) => Self::Dense(Box::new(DeviceDenseOnly(DeviceDense::new(device, dense)?))),
            FeedForward::Moe { router, index, bias, shared, early } => {
                let (scores, gating) = router.parts();
                let early = early.as_ref().map(|e| Map::new(device, e)).transpose()?;
                let shared = shared.as_ref().map(|s| -> Result<_, ModelError> {
                    let (weight, expert) = s.parts();
                    Ok((Map::new(device, weight)?, DeviceDense::new(device, expert)?))
                });
                let shared = shared.transpose()?;
                let bias = bias.as_ref().map(|b| vector(device, b)).transpose()?;
                Self::Moe(Box::new(DeviceMoe { scores: Map::new(device, scores)?, early, gating, index: *index, bias, shared }))
            }
        })
    }

    /// Whether it has the routers of later layers.
    pub(super) fn foresees(&self) -> bool {
        matches!(self, Self::Moe(moe) if moe.early.is_some())
    }

    /// Where the device finds the layer's experts; for [`DeviceFeedForward::begin`].
    pub(super) fn table(&self, experts: &mut Experts) -> Result<Address, ModelError> {
        match self {
            Self::Dense(_) => Ok(Address::NONE),
            Self::Moe(moe) => Ok(experts.device_table(moe.index)?),
        }
    }

    /// What needs nothing of the host: all of a dense feed-forward; else the routing, on its way to the host. The rows of `h` are read, and the
    /// result is added to `x`.
    pub(super) fn begin(&self, pass: &Pass<'_>, table: Address) -> Result<(), ModelError> {
        match self {
            Self::Dense(dense) => dense.0.forward(pass, None),
            Self::Moe(moe) => {
                moe.route(pass, table, pass.work.choice(pass.tokens), moe.asked(pass))?;
                Ok(pass.work.fetch_routing(pass.device, pass.tokens, moe.scores_asked(pass))?)
            }
        }
    }

    /// The routed experts and the shared one. `again` keeps what can be played again; see [`Recorded`].
    pub(super) fn finish(&self, pass: &Pass<'_>, experts: &mut Experts, again: &mut Recorded) -> Result<(), ModelError> {
        match self {
            Self::Dense(_) => Ok(()),
            Self::Moe(moe) => moe.finish(pass, experts, again),
        }
    }

    /// All of it, for a token whose experts are all in slots. The rows of `h` are read, and the result is added to `x`. Only launches;
    /// [`DeviceFeedForward::tick`] follows when the token is over.
    pub(super) fn whole(&self, pass: &Pass<'_>, table: Address, experts: &Experts) -> Result<(), ModelError> {
        match self {
            Self::Dense(dense) => dense.0.forward(pass, None),
            Self::Moe(moe) => moe.whole(pass, table, experts),
        }
    }

    /// The same for a token that the host answers while it runs; [`DeviceFeedForward::answer`] follows.
    pub(super) fn answered(&self, pass: &Pass<'_>, talk: &Talk, experts: &Experts) -> Result<(), ModelError> {
        match self {
            Self::Dense(dense) => dense.0.forward(pass, None),
            Self::Moe(moe) => moe.answered(pass, talk, experts),
        }
    }

    /// The host's part in it: open the layer, hear what was routed, answer. `heard` is room for what is told.
    pub(super) fn answer(&self, pass: &Pass<'_>, talk: &Talk, experts: &mut Experts, heard: &mut Vec<u32>) -> Result<(), ModelError> {
        match self {
            Self::Dense(_) => Ok(()),
            Self::Moe(moe) => moe.answer(pass, talk, experts, heard),
        }
    }

    /// Tell the experts what was routed in a whole token, once the host has the choices of all layers.
    pub(super) fn tick(&self, work: &Workspace, choices: &[u32], experts: &mut Experts) -> Result<(), ModelError> {
        let Self::Moe(moe) = self else { return Ok(()) };
        let (ids, weights) = work.chosen(choices, moe.index);
        Ok(experts.device_tick(moe.index, &Routing { top_k: moe.top_k(), ids: ids.to_vec(), weights: weights.to_vec() })?)
    }
}

impl DeviceMoe {
    fn top_k(&self) -> usize {
        self.gating.top_k.min(self.scores.rows)
    }

    /// The routers of the next layers, if this token asks them. Their scores lie behind the layer's own.
    fn asked<'a>(&'a self, pass: &Pass<'_>) -> impl Iterator<Item = (&'a Map, Target)> {
        let (asks, behind) = (pass.asks, pass.work.scores(pass.tokens).right(self.scores.rows));
        self.early.iter().filter(move |_| asks).map(move |early| (early, Target::set(behind)))
    }

    /// How many scores the host wants to see. The last layer has nobody to ask, but what was said of it is learned from.
    fn scores_asked(&self, pass: &Pass<'_>) -> usize {
        match pass.asks {
            true => self.scores.rows + self.early.as_ref().map_or(0, |e| e.rows),
            false => 0,
        }
    }

    /// `beside`: more maps of `h`, which take the same launch.
    fn route<'a>(
        &'a self,
        pass: &Pass<'_>,
        table: Address,
        choice: Choice,
        beside: impl Iterator<Item = (&'a Map, Target)>,
    ) -> Result<(), ModelError> {
        let Pass { device, work, tokens, .. } = *pass;
        let maps: Vec<_> = [(&self.scores, Target::set(work.scores(tokens)))].into_iter().chain(beside).collect();
        apply(device, pass.h, tokens, &maps)?;
        self.choose(pass, table, choice)
    }

    /// The choice by the scores.
    fn choose(&self, pass: &Pass<'_>, table: Address, choice: Choice) -> Result<(), ModelError> {
        let Pass { device, work, tokens, .. } = *pass;
        let scores = work.scores(tokens);
        let route = Route {
            scores: scores.at,
            table,
            ids: choice.ids,
            weights: choice.weights,
            slots: work.slots,
            tokens: tokens as u32,
            experts: self.scores.rows as u32,
            top_k: self.top_k() as u32,
            renormalise: u32::from(self.gating.renormalise),
            scale: self.gating.scale,
            pad: 0,
        };
        Ok(launch(device, &route, &[])?)
    }

    /// The biases of the chosen experts, which don't depend on where those are.
    fn add_bias(&self, pass: &Pass<'_>, choice: Choice) -> Result<(), ModelError> {
        let Some(bias) = &self.bias else { return Ok(()) };
        let Choice { ids, weights } = choice;
        let (tokens, top_k, cols) = (pass.tokens as u32, self.top_k() as u32, self.scores.cols() as u32);
        let kernel = RoutedBias { ids, weights, bias: bias.address(), y: pass.x.at, tokens, top_k, cols, y_stride: pass.x.stride as u32 };
        Ok(launch(pass.device, &kernel, &[])?)
    }

    fn rows(&self, pass: &Pass<'_>, choice: Choice) -> DeviceRows {
        let Choice { ids, weights } = choice;
        DeviceRows { tokens: pass.tokens, top_k: self.top_k(), x: pass.h.at, ids, weights, slots: pass.work.slots, y: pass.x.at }
    }

    fn whole(&self, pass: &Pass<'_>, table: Address, experts: &Experts) -> Result<(), ModelError> {
        let choice = pass.work.choice_of(self.index);
        let beside = self.shared.iter().flat_map(|(weight, shared)| shared.first(pass.work, Some(weight)));
        self.route(pass, table, choice, beside)?;
        experts.device_queue(self.index, &self.rows(pass, choice))?;
        self.add_bias(pass, choice)?;
        self.shared.iter().try_for_each(|(weight, shared)| shared.second(pass, Some(weight)))
    }

    fn answered(&self, pass: &Pass<'_>, talk: &Talk, experts: &Experts) -> Result<(), ModelError> {
        let Pass { device, work, .. } = *pass;
        let (choice, table, turn) = (work.choice(1), experts.device_place(self.index)?, work.turn());
        let scores = work.scores(1);
        let maps: Vec<_> = [(&self.scores, Target::set(scores))].into_iter().chain(self.asked(pass)).collect();
        apply(device, pass.h, 1, &maps)?;
        // As late as it may be: until here the host has had time.
        launch(device, &talk.await_table(turn, self.index, table), &[])?;
        self.choose(pass, table, choice)?;
        launch(device, &work.tell(talk, self.index, self.scores_asked(pass)), &[])?;
        experts.device_queue(self.index, &self.rows(pass, choice))?;
        self.add_bias(pass, choice)?;
        self.shared.iter().try_for_each(|(weight, shared)| shared.forward(pass, Some(weight)))?;
        Ok(launch(device, &talk.add_answer(turn, self.index, work.slots, self.top_k(), pass.x.at), &[])?)
    }

    fn answer(&self, pass: &Pass<'_>, talk: &Talk, experts: &mut Experts, heard: &mut Vec<u32>) -> Result<(), ModelError> {
        let Pass { device, work, .. } = *pass;
        experts.device_open(self.index, talk)?;
        let scores = self.scores_asked(pass);
        talk.hear(device, self.index, work.told_bytes(scores), heard)?;
        let fetched = work.told(heard, scores);
        let routing = Routing { top_k: self.top_k(), ids: fetched.ids.to_vec(), weights: fetched.weights.to_vec() };
        experts.device_answer(self.index, talk, fetched.rows, &routing)?;
        // The device goes on: time for all that it need not wait for.
        if pass.asks {
            let (own, early) = fetched.scores.split_at(self.scores.rows);
            experts.foresee(self.index, own, early, fetched.ids);
        }
        Ok(experts.device_after(self.index, &routing)?)
    }

    fn finish(&self, pass: &Pass<'_>, experts: &mut Experts, again: &mut Recorded) -> Result<(), ModelError> {
        let Pass { device, work, tokens, .. } = *pass;
        let top_k = self.top_k();
        let known = device.mark(Lane::Compute)?;
        // Queued before the host knows the routing: the device has work while the host wakes and plans.
        let rows = self.rows(pass, work.choice(tokens));
        experts.device_hits(self.index, &rows)?;
        if self.shared.is_some() || self.bias.is_some() {
            again.play(pass, || {
                self.add_bias(pass, work.choice(tokens))?;
                self.shared.iter().try_for_each(|(weight, shared)| shared.forward(pass, Some(weight)))
            })?;
        }
        device.sync(&known)?;
        let done = work.routing(tokens, self.scores_asked(pass), |fetched| {
            if pass.asks {
                let (own, early) = fetched.scores.split_at(self.scores.rows);
                experts.foresee(self.index, own, early, fetched.ids);
            }
            let routing = Routing { top_k, ids: fetched.ids.to_vec(), weights: fetched.weights.to_vec() };
            experts.device_rest(self.index, &rows, fetched.rows, &routing)
        });
        Ok(done.unwrap_or(Ok(()))?)
    }
}

/// Look `x` over for what is not a number.
pub(super) fn watch(device: &dyn Device, x: Rows, tokens: usize, flag: Address) -> Result<(), ModelError> {
    Ok(launch(device, &Finite { x: x.at, flag, len: (tokens * x.stride) as u32, pad: 0 }, &[])?)
}
