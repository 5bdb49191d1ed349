//! Routing on the device, and what stands beside the routed experts. The routed experts themselves are the slots' business.

use super::super::decoder::After;
use super::super::dense_and_routed::DenseAndRouted;
use super::super::early::{self, Early};
use super::super::feed_forward::FeedForward;
use super::super::norm::RmsNorm;
use super::super::router::{self, Gating, Router};
use super::super::ModelError;
use super::dense::{DeviceDense, DeviceDenseOnly};
use super::join::{Beside, Join};
use super::map::{apply, vector, Map, Norm, Rows, Target};
use super::workspace::{Choice, Workspace};
use super::{Pass, Recorded};
use crate::experts::tier::DeviceRows;
use crate::experts::{Experts, Routing};
use crate::gpu::params::{launch, Finite, Route, RoutedBias};
use crate::gpu::talk::Talk;
use crate::gpu::{Address, Device, Lane, Memory};

/// What follows the mixer in a layer.
pub(super) enum DeviceFeedForward {
    Dense(Box<DeviceDenseOnly>),
    Moe(Box<DeviceMoe>),
}

/// What every token uses beside the routed experts.
enum Common {
    Nothing,
    /// An expert, in some families weighed by a map of its own. It reads what the router reads, and adds to the stream as the routed ones do.
    Shared(Box<Shared>),
    /// A dense feed-forward. It, the router and the experts read the stream through norms of their own, and so does what they give get there.
    Dense(Box<DenseBeside>),
}

struct Shared {
    weight: Option<Map>,
    expert: DeviceDense,
}

/// See [`super::super::dense_and_routed`].
struct DenseBeside {
    norm: Norm,
    dense: DeviceDense,
    experts_norm: Norm,
    dense_norm: Norm,
    routed_norm: Norm,
    join: Join,
}

/// A router, and what every token uses beside the experts.
pub(super) struct DeviceMoe {
    /// Before the router.
    norm: Norm,
    scores: Map,
    /// `[experts]`: see [`Router::with_factors`].
    factors: Option<Memory>,
    /// Scores are sigmoids.
    sigmoid: bool,
    /// `[experts]`: added to them for the choice.
    choice_bias: Option<Memory>,
    /// The routers of the next layers; see [`super::super::early`].
    early: Option<Map>,
    /// By what this layer and those choose.
    choices: Vec<router::Choice>,
    gating: Gating,
    index: usize,
    /// `[experts, hidden]`
    bias: Option<Memory>,
    common: Common,
}

impl DeviceFeedForward {
    /// `norm`: before it. `after`: what the layer does with the result.
    pub(super) fn new(device: &dyn Device, layer: &FeedForward, norm: &RmsNorm, after: &After) -> Result<Self, ModelError> {
        let join = || Join::new(device, after.ff_norm.as_ref(), after.scale);
        Ok(match layer {
            FeedForward::Dense(dense) => Self::Dense(Box::new(DeviceDenseOnly::new(device, norm, dense, join()?)?)),
            FeedForward::Moe { router, index, bias, shared, early } => {
                let common = match shared.as_ref().map(|s| s.parts()) {
                    None => Common::Nothing,
                    Some((weight, expert)) => {
                        let weight = weight.map(|w| Map::new(device, w)).transpose()?;
                        Common::Shared(Box::new(Shared { weight, expert: DeviceDense::new(device, expert)? }))
                    }
                };
                Self::Moe(Box::new(DeviceMoe::new(device, norm, router, *index, bias.as_deref(), early.as_ref(), common)?))
            }
            FeedForward::DenseAndRouted(both) => {
                let DenseAndRouted { dense, dense_norm, router_norm, router, index, bias, experts_norm, routed_norm, early } = &**both;
                let common = Common::Dense(Box::new(DenseBeside {
                    norm: Norm::new(device, norm)?,
                    dense: DeviceDense::new(device, dense)?,
                    experts_norm: Norm::new(device, experts_norm)?,
                    dense_norm: Norm::new(device, dense_norm)?,
                    routed_norm: Norm::new(device, routed_norm)?,
                    join: join()?,
                }));
                Self::Moe(Box::new(DeviceMoe::new(device, router_norm, router, *index, bias.as_deref(), early.as_ref(), common)?))
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

    /// What needs nothing of the host: all of a dense feed-forward; else the routing, on its way to the host. The stream `x` is read, and the
    /// result is added to it.
    pub(super) fn begin(&self, pass: &Pass<'_>, table: Address) -> Result<(), ModelError> {
        match self {
            Self::Dense(dense) => dense.forward(pass),
            Self::Moe(moe) => {
                let read = moe.read(pass)?;
                moe.score(pass, read, moe.asked(pass))?;
                moe.choose(pass, table, pass.work.choice(pass.tokens))?;
                moe.prepare(pass)?;
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

    /// All of it, for a token whose experts are all in slots. The stream `x` is read, and the result is added to it. Only launches;
    /// [`DeviceFeedForward::tick`] follows when the token is over.
    pub(super) fn whole(&self, pass: &Pass<'_>, table: Address, experts: &Experts) -> Result<(), ModelError> {
        match self {
            Self::Dense(dense) => dense.forward(pass),
            Self::Moe(moe) => moe.whole(pass, table, experts),
        }
    }

    /// The same for a token that the host answers while it runs; [`DeviceFeedForward::answer`] follows.
    pub(super) fn answered(&self, pass: &Pass<'_>, talk: &Talk, experts: &Experts) -> Result<(), ModelError> {
        match self {
            Self::Dense(dense) => dense.forward(pass),
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
    fn new(
        device: &dyn Device,
        norm: &RmsNorm,
        router: &Router,
        index: usize,
        bias: Option<&[f32]>,
        early: Option<&Early>,
        common: Common,
    ) -> Result<Self, ModelError> {
        let (scores, gating) = router.parts();
        let (early, later) = early.map(Early::parts).unzip();
        Ok(Self {
            norm: Norm::new(device, norm)?,
            scores: Map::new(device, scores)?,
            factors: router.factors().map(|f| vector(device, f)).transpose()?,
            sigmoid: router.choice().sigmoid,
            choice_bias: router.choice().bias.as_ref().map(|b| vector(device, b)).transpose()?,
            early: early.map(|e| Map::new(device, e)).transpose()?,
            choices: std::iter::once(router.choice()).chain(later.into_iter().flatten()).cloned().collect(),
            gating,
            index,
            bias: bias.map(|b| vector(device, b)).transpose()?,
            common,
        })
    }

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

    /// What the scores that were asked for say of this token: the layer's own, and behind them what the next routers give.
    fn foresee(&self, experts: &mut Experts, scores: &[f32], used: &[u32]) {
        let mut ranks = scores.to_vec();
        early::rank(&self.choices, &mut ranks);
        let (own, early) = ranks.split_at(self.scores.rows);
        experts.foresee(self.index, own, early, used);
    }

    /// The rows that the router reads.
    fn read(&self, pass: &Pass<'_>) -> Result<Rows, ModelError> {
        let rows = if let Common::Dense(_) = self.common { pass.work.read_apart(pass.tokens) } else { pass.h };
        self.norm.apply(pass.device, pass.x, rows, pass.tokens, None)?;
        Ok(rows)
    }

    /// The scores of what was read. `beside`: more maps of it, which take the same launch.
    fn score<'a>(&'a self, pass: &Pass<'_>, read: Rows, beside: impl Iterator<Item = (&'a Map, Target)>) -> Result<(), ModelError> {
        let maps: Vec<_> = [(&self.scores, Target::set(pass.work.scores(pass.tokens)))].into_iter().chain(beside).collect();
        apply(pass.device, read, pass.tokens, &maps)
    }

    /// What the experts read comes to `h`.
    fn prepare(&self, pass: &Pass<'_>) -> Result<(), ModelError> {
        let Common::Dense(beside) = &self.common else { return Ok(()) };
        beside.experts_norm.apply(pass.device, pass.x, pass.h, pass.tokens, None)
    }

    /// Where the sums of the experts go.
    fn sums(&self, pass: &Pass<'_>) -> Rows {
        if let Common::Dense(_) = self.common {
            pass.work.routed(pass.tokens)
        } else {
            pass.x
        }
    }

    /// What every token uses beside the experts.
    fn common(&self, pass: &Pass<'_>) -> Result<(), ModelError> {
        match &self.common {
            Common::Nothing => Ok(()),
            Common::Shared(s) => s.expert.forward(pass, pass.h, s.weight.as_ref(), Target::add(pass.x)),
            Common::Dense(beside) => {
                let read = pass.work.read_apart(pass.tokens);
                beside.norm.apply(pass.device, pass.x, read, pass.tokens, None)?;
                beside.dense.forward(pass, read, None, beside.join.target(pass))
            }
        }
    }

    /// All that the layer gave is there, and joins the stream if it has not.
    fn end(&self, pass: &Pass<'_>) -> Result<(), ModelError> {
        let Common::Dense(beside) = &self.common else { return Ok(()) };
        let routed = Beside { rows: self.sums(pass), norm: &beside.routed_norm, given_norm: &beside.dense_norm };
        beside.join.finish(pass, Some(routed))
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
            sigmoid: u32::from(self.sigmoid),
            factors: self.factors.as_ref().map_or(Address::NONE, Memory::address),
            bias: self.choice_bias.as_ref().map_or(Address::NONE, Memory::address),
        };
        Ok(launch(device, &route, &[])?)
    }

    /// The biases of the chosen experts, which don't depend on where those are.
    fn add_bias(&self, pass: &Pass<'_>, choice: Choice) -> Result<(), ModelError> {
        let Some(bias) = &self.bias else { return Ok(()) };
        let (Choice { ids, weights }, sums) = (choice, self.sums(pass));
        let (tokens, top_k, cols) = (pass.tokens as u32, self.top_k() as u32, self.scores.cols() as u32);
        let kernel = RoutedBias { ids, weights, bias: bias.address(), y: sums.at, tokens, top_k, cols, y_stride: sums.stride as u32 };
        Ok(launch(pass.device, &kernel, &[])?)
    }

    fn rows(&self, pass: &Pass<'_>, choice: Choice) -> DeviceRows {
        let Choice { ids, weights } = choice;
        let y = self.sums(pass).at;
        DeviceRows { tokens: pass.tokens, top_k: self.top_k(), x: pass.h.at, ids, weights, slots: pass.work.slots, y }
    }

    fn whole(&self, pass: &Pass<'_>, table: Address, experts: &Experts) -> Result<(), ModelError> {
        let choice = pass.work.choice_of(self.index);
        let shared = if let Common::Shared(s) = &self.common { Some((s.weight.as_ref(), &s.expert)) } else { None };
        let read = self.read(pass)?;
        self.score(pass, read, shared.iter().flat_map(|(weight, shared)| shared.first(pass.work, *weight)))?;
        self.choose(pass, table, choice)?;
        self.prepare(pass)?;
        experts.device_queue(self.index, &self.rows(pass, choice))?;
        self.add_bias(pass, choice)?;
        match shared {
            Some((weight, shared)) => shared.second(pass, weight, Target::add(pass.x))?,
            None => self.common(pass)?,
        }
        self.end(pass)
    }

    fn answered(&self, pass: &Pass<'_>, talk: &Talk, experts: &Experts) -> Result<(), ModelError> {
        let Pass { device, work, .. } = *pass;
        let (choice, table, turn) = (work.choice(1), experts.device_place(self.index)?, work.turn());
        let read = self.read(pass)?;
        self.score(pass, read, self.asked(pass))?;
        self.prepare(pass)?;
        // As late as it may be: until here the host has had time.
        launch(device, &talk.await_table(turn, self.index, table), &[])?;
        self.choose(pass, table, choice)?;
        launch(device, &work.tell(talk, self.index, self.scores_asked(pass)), &[])?;
        experts.device_queue(self.index, &self.rows(pass, choice))?;
        self.add_bias(pass, choice)?;
        self.common(pass)?;
        launch(device, &talk.add_answer(turn, self.index, work.slots, self.top_k(), self.sums(pass).at), &[])?;
        self.end(pass)
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
            self.foresee(experts, fetched.scores, fetched.ids);
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
        if !matches!(self.common, Common::Nothing) || self.bias.is_some() {
            again.play(pass, || {
                self.add_bias(pass, work.choice(tokens))?;
                self.common(pass)
            })?;
        }
        device.sync(&known)?;
        let done = work.routing(tokens, self.scores_asked(pass), |fetched| {
            if pass.asks {
                self.foresee(experts, fetched.scores, fetched.ids);
            }
            let routing = Routing { top_k, ids: fetched.ids.to_vec(), weights: fetched.weights.to_vec() };
            experts.device_rest(self.index, &rows, fetched.rows, &routing)
        });
        done.unwrap_or(Ok(()))?;
        self.end(pass)
    }
}

/// Look `x` over for what is not a number.
pub(super) fn watch(device: &dyn Device, x: Rows, tokens: usize, flag: Address) -> Result<(), ModelError> {
    Ok(launch(device, &Finite { x: x.at, flag, len: (tokens * x.stride) as u32, pad: 0 }, &[])?)
}
