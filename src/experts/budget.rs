//! The memory plan: from one number, what goes where. Pure; the caller says what the machine can give.

use crate::events::{LayerSlot, Plan};
use crate::size::size;

/// The program itself: code, threads, screen.
const PROCESS: u64 = 40 << 20;
/// The tokenizer, per token of the vocabulary: the text twice, its merges and their tables.
const PER_TOKEN_OF_VOCABULARY: u64 = 512;
/// Most pages of the file that experts without a slot may hold at a time under a budget.
const WINDOW: u64 = 64 << 20;
/// The window takes no more than this part of what is left for it and the slots, down to the least that computes ([`Window::least`]): where
/// memory is short, slots are worth more than experts that are read side by side.
const WINDOW_SHARE: u64 = 8;
/// Slots are counted with their rounding up to pages.
const PAGE: u64 = 4096;
/// Without a budget, this share of the available memory is taken.
const COMFORT: f64 = 0.7;
/// On a device slots are counted with their rounding up to this.
const DEVICE_ALIGN: u64 = 256;
/// Device memory that is left to others when no budget is given: a desktop, and what the driver takes later. Memory that is over-committed
/// is far slower than fewer slots.
const DEVICE_RESERVE: u64 = 700 << 20;
/// Context to ask for when nobody says otherwise.
const USUAL_CONTEXT: usize = 8192;
/// Least context that a derived plan goes down to.
const LEAST_CONTEXT: usize = 512;

/// What a model takes, from its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Bytes of weights that every token uses.
    pub trunk: u64,
    /// The part of them that is only looked up, see [`Plan::looked_up`].
    pub looked_up: u64,
    /// What keys and values take.
    pub cache: CacheNeed,
    /// Bytes of recurrent states and their copies, whatever the context.
    pub states: u64,
    /// Bytes of activations and logits for the longest pass.
    pub buffers: u64,
    /// Size of the vocabulary.
    pub vocab: u64,
    /// Bytes of one expert, per layer that has experts.
    pub expert_bytes: Vec<u64>,
    /// Numbers of these layers in the file.
    pub expert_layers: Vec<usize>,
    /// Experts per layer.
    pub experts: usize,
    /// Context that the model was trained for.
    pub context: usize,
}

/// What keys and values take: of layers that keep them of the whole context, and of layers that see a window and keep no more than so many positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheNeed {
    /// Bytes per token of context.
    pub per_token: u64,
    /// Bytes per position of the layers that see a window.
    pub windowed: u64,
    /// Most positions that those keep.
    pub kept: usize,
}

impl CacheNeed {
    /// Bytes for so many tokens.
    #[must_use]
    pub fn bytes(&self, tokens: usize) -> u64 {
        self.per_token.saturating_mul(tokens as u64).saturating_add(self.windowed.saturating_mul(tokens.min(self.kept) as u64))
    }

    /// Tokens that so many bytes are enough for.
    #[must_use]
    pub fn tokens(&self, bytes: u64) -> usize {
        let of = |bytes: u64, each: u64| usize::try_from(bytes.checked_div(each).unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        match bytes.checked_sub(self.bytes(self.kept)) {
            Some(rest) => self.kept.saturating_add(of(rest, self.per_token)),
            None => of(bytes, self.per_token.saturating_add(self.windowed)),
        }
    }
}

/// What the person asks for. See [`crate::events::LoadOptions`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Budget of memory in bytes.
    pub ram: Option<u64>,
    /// Slots per layer.
    pub slots: Option<usize>,
    /// Context in tokens.
    pub context: Option<usize>,
    /// Memory that the machine can give, in bytes.
    pub available: u64,
}

/// Why there is no plan. The messages carry the numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// Even the least does not fit.
    #[error(
        "{} are not enough for this model: it needs {} (trunk {}, context of {context} tokens {}, buffers {}, {}{}\
         {} {}); raise {knob}{}{}, or take a smaller model",
        size(*budget), size(trunk + cache + buffers + window + slot_bytes), size(*trunk), size(*cache), size(buffers - program),
        if *program > 0 { format!("program {}, ", size(*program)) } else { String::new() },
        if *window > 0 { format!("window {}, ", size(*window)) } else { String::new() },
        if *slots == 1 { "1 slot per layer".to_owned() } else { format!("{slots} slots per layer") }, size(*slot_bytes),
        if *fits > 0 { format!(", lower --ctx to {fits}") } else { String::new() },
        if slots > min_slots { ", lower --slots" } else { "" },
    )]
    TooSmall {
        /// What there is.
        budget: u64,
        /// Weights that every token uses.
        trunk: u64,
        /// The context.
        cache: u64,
        /// Buffers, and in host memory the process.
        buffers: u64,
        /// The part of them that is the process and its tokenizer.
        program: u64,
        /// Pages of the file that experts without a slot hold at least.
        window: u64,
        /// Slots per layer that were asked for, or the fewest that there can be.
        slots: usize,
        /// The fewest that there can be.
        min_slots: usize,
        /// Bytes of them.
        slot_bytes: u64,
        /// Tokens of context.
        context: usize,
        /// The longest context that fits beside so many slots; 0 if none does.
        fits: usize,
        /// The option that sets the budget.
        knob: &'static str,
    },
    /// More device memory than there is.
    #[error("--vram asks for {}, but {} are free on {device}; ask for less, or end what else uses it", size(*asked), size(*free))]
    Vram {
        /// What was asked for.
        asked: u64,
        /// What is free.
        free: u64,
        /// Its name.
        device: String,
    },
    /// More context than the model knows.
    #[error("a context of {asked} tokens is more than this model was trained for; choose at most {most}")]
    Context {
        /// What was asked for.
        asked: usize,
        /// What the file says.
        most: usize,
    },
    /// More slots than experts.
    #[error("{asked} slots per layer are more than the {most} experts of a layer")]
    Slots {
        /// What was asked for.
        asked: usize,
        /// Experts per layer.
        most: usize,
    },
    /// A context of nothing.
    #[error("a context of 0 tokens holds nothing; choose at least 1")]
    NoContext,
}

/// Derive context and slots, or say with numbers why it can't be.
///
/// With a budget, slots take what is left after trunk, context, buffers and the window. Without one, all experts get slots if that
/// fits comfortably into the available memory, and otherwise as many as do; an explicit slot count is then taken as it is. The rows are
/// the same either way, so that the sum of a plan without a budget is a budget that is kept.
///
/// # Errors
/// See [`BudgetError`].
pub fn plan(needs: &Needs, wish: &Wish) -> Result<Plan, BudgetError> {
    let budget = wish.ram.unwrap_or((wish.available as f64 * COMFORT) as u64);
    let program = process(needs);
    let place = Place { budget, given: wish.ram, program, window: Window::of(needs), align: PAGE, knob: "--ram" };
    fit(needs, wish, &place)
}

/// Pages of the file that are in memory beside the slots: of experts without one, while they compute, and of those that come into theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Window {
    /// One expert at a time.
    least: u64,
    /// As many as pay.
    most: u64,
    /// Bytes of one expert of every layer.
    each: u64,
}

impl Window {
    fn of(needs: &Needs) -> Self {
        Self::over(needs.expert_bytes.iter().copied(), needs.experts)
    }

    /// That of a plan that was made; nothing where it counts none: on a device, and in recordings of before.
    fn of_plan(plan: &Plan) -> Self {
        match plan.window {
            0 => Self::default(),
            _ => Self::over(plan.slot_bytes.iter().map(|s| s.bytes), plan.max_slots),
        }
    }

    /// Of layers whose experts have so many bytes each.
    fn over(expert_bytes: impl Iterator<Item = u64> + Clone, experts: usize) -> Self {
        let each = expert_bytes.clone().fold(0, u64::saturating_add);
        let all = each.saturating_mul(experts as u64);
        let largest = expert_bytes.max().unwrap_or(0);
        // There is no more of the file than all experts.
        let of = |pages: u64| pages.saturating_add(around(largest)).min(all);
        Self { least: of(largest), most: of(WINDOW), each }
    }

    /// What it takes if so many experts per layer have no slot and `left` is there for it.
    fn within(&self, without: usize, left: u64) -> u64 {
        left.min(self.most).min(self.each.saturating_mul(without as u64)).max(self.least)
    }
}

/// Bytes of the file that come into memory around the experts that are read ([`crate::gguf::Bytes::advise`]), at most.
fn around(largest: u64) -> u64 {
    largest.saturating_mul(2)
}

/// The device at hand, for a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRoom {
    /// Its name.
    pub name: String,
    /// Bytes that are free on it.
    pub free: u64,
    /// Budget in bytes for everything that the model keeps there; what is free without a reserve if `None`.
    pub budget: Option<u64>,
    /// Page-locked host memory beside it.
    pub pinned: u64,
}

/// The same for a device: `needs` then speaks of device memory, and so does the plan. The experts' host tier stays the mapped file.
///
/// # Errors
/// See [`BudgetError`].
pub fn plan_on_device(needs: &Needs, wish: &Wish, room: &DeviceRoom) -> Result<Plan, BudgetError> {
    if let Some(asked) = room.budget.filter(|&b| b > room.free) {
        return Err(BudgetError::Vram { asked, free: room.free, device: room.name.clone() });
    }
    let budget = room.budget.unwrap_or(room.free.saturating_sub(DEVICE_RESERVE));
    let place = Place { budget, given: Some(budget), program: 0, window: Window::default(), align: DEVICE_ALIGN, knob: "--vram" };
    let plan = fit(needs, wish, &place)?;
    Ok(Plan { device: Some(room.name.clone()), host: process(needs) + room.pinned, ..plan })
}

/// The program and its tokenizer.
fn process(needs: &Needs) -> u64 {
    PROCESS + needs.vocab * PER_TOKEN_OF_VOCABULARY
}

/// A memory that a model is to fit into.
struct Place {
    budget: u64,
    /// The budget that is kept to afterwards, if any.
    given: Option<u64>,
    /// Taken by the process there, beside the model's buffers.
    program: u64,
    window: Window,
    align: u64,
    knob: &'static str,
}

/// Bytes of one slot in every layer.
fn slot_step(needs: &Needs, align: u64) -> u64 {
    needs.expert_bytes.iter().map(|b| b.next_multiple_of(align)).sum()
}

fn fit(needs: &Needs, wish: &Wish, place: &Place) -> Result<Plan, BudgetError> {
    let min_slots = 1.min(needs.experts);
    if let Some(asked) = wish.context.filter(|&c| c > needs.context) {
        return Err(BudgetError::Context { asked, most: needs.context });
    }
    if wish.context == Some(0) {
        return Err(BudgetError::NoContext);
    }
    if let Some(asked) = wish.slots.filter(|&s| s > needs.experts) {
        return Err(BudgetError::Slots { asked, most: needs.experts });
    }
    let Place { budget, program, window, .. } = *place;
    let buffers = needs.buffers + program;
    let slot_step = slot_step(needs, place.align);
    let fixed = needs.trunk + buffers + needs.states;
    let least_slots = wish.slots.unwrap_or(min_slots).max(min_slots);
    let least_bytes = slot_step.saturating_mul(least_slots as u64);
    let room = budget.saturating_sub(fixed + window.least + least_bytes);
    let tokens_in = |bytes: u64| needs.cache.tokens(bytes).min(needs.context);
    // Context may take a quarter of what is left; the rest is for slots.
    let context = wish.context.unwrap_or_else(|| tokens_in(room / 4).clamp(LEAST_CONTEXT, USUAL_CONTEXT).min(needs.context));
    let cache = needs.cache.bytes(context) + needs.states;
    let left = budget.checked_sub(needs.trunk + buffers + cache).filter(|left| least_bytes.saturating_add(window.least) <= *left);
    let Some(left) = left else {
        return Err(BudgetError::TooSmall {
            budget,
            trunk: needs.trunk,
            cache,
            buffers,
            program,
            window: window.least,
            slots: least_slots,
            min_slots,
            slot_bytes: least_bytes,
            context,
            // Without keys and values any context fits, and it is not what to shorten.
            fits: Some(tokens_in(room)).filter(|&fits| fits < context).unwrap_or(0),
            knob: place.knob,
        });
    };
    let slots = match wish.slots {
        Some(_) => least_slots,
        None => most_slots(left, slot_step, least_slots, needs.experts, window),
    };
    let slot_bytes = slot_step * slots as u64;
    Ok(Plan {
        budget: place.given,
        trunk: needs.trunk,
        looked_up: needs.looked_up,
        cache,
        buffers,
        program,
        window: window.within(needs.experts - slots, left - slot_bytes),
        slots: slot_bytes,
        slot_step,
        experts: needs.expert_bytes.iter().sum::<u64>() * needs.experts as u64,
        slots_per_layer: slots,
        min_slots,
        max_slots: needs.experts,
        context,
        states: needs.states,
        slot_bytes: needs.expert_layers.iter().zip(&needs.expert_bytes).map(|(&layer, &bytes)| LayerSlot { layer, bytes }).collect(),
        device: None,
        host: 0,
    })
}

/// Slots for `left` bytes: for all experts if they have room beside the least window, else as many as a window of some width leaves room for, `least`
/// of which have been made sure of.
fn most_slots(left: u64, slot_step: u64, least: usize, experts: usize, window: Window) -> usize {
    let in_bytes = |bytes: u64| usize::try_from(bytes.checked_div(slot_step).unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    if in_bytes(left.saturating_sub(window.least)) >= experts {
        return experts;
    }
    let wide = (left / WINDOW_SHARE).min(window.most).max(window.least);
    in_bytes(left.saturating_sub(wide)).max(least).min(experts)
}

/// Most slots per layer that the plan's budget allows: as many as it would have given if nobody had asked for another count, or those that were asked
/// for if they are more; all of them if there is no budget.
#[must_use]
pub fn slot_limit(plan: &Plan) -> usize {
    let Some(left) = left(plan) else { return plan.max_slots };
    most_slots(left, plan.slot_step, plan.min_slots, plan.max_slots, Window::of_plan(plan)).max(plan.slots_per_layer).min(plan.max_slots)
}

/// What the plan's budget leaves for the window and the slots, in bytes.
fn left(plan: &Plan) -> Option<u64> {
    Some(plan.budget?.saturating_sub([plan.trunk, plan.cache, plan.buffers].into_iter().fold(0, u64::saturating_add)))
}

/// How many bytes of file pages experts without a slot may hold at a time under this plan, with what its budget has left over beside the most slots
/// that there may be later ([`slot_limit`]); `None` if there is no budget.
#[must_use]
pub fn window(plan: &Plan) -> Option<u64> {
    let largest = plan.slot_bytes.iter().map(|s| s.bytes).max().unwrap_or(0);
    let most = plan.slot_step.saturating_mul(slot_limit(plan) as u64);
    Some(left(plan)?.saturating_sub(most).saturating_sub(around(largest)).min(WINDOW).max(largest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    /// Eight layers of Qwen3-30B-A3B at Q4_K_M.
    fn needs() -> Needs {
        Needs {
            trunk: 530 * MIB,
            looked_up: 0,
            cache: CacheNeed { per_token: 16 << 10, ..CacheNeed::default() },
            states: 0,
            buffers: 60 * MIB,
            vocab: 151_936,
            expert_bytes: vec![2_867_200; 8],
            expert_layers: (0..8).collect(),
            experts: 128,
            context: 32768,
        }
    }

    #[test]
    fn a_budget_is_filled_with_slots_and_never_exceeded() {
        let plan = plan(&needs(), &Wish { ram: Some(1536 * MIB), available: 20 << 30, ..Wish::default() }).unwrap();
        let used = plan.together();
        assert!(used <= 1536 * MIB && used + plan.slot_step > 1536 * MIB);
        assert!((16..64).contains(&plan.slots_per_layer), "{plan:?}");
        assert_eq!(slot_limit(&plan), plan.slots_per_layer);
    }

    proptest! {
        #[test]
        fn as_many_tokens_fit_as_their_bytes_say(per_token in 0u64..1000, windowed in 0u64..1000, kept in 0usize..300, bytes in 0u64..400_000) {
            let need = CacheNeed { per_token, windowed, kept };
            let tokens = need.tokens(bytes);
            prop_assert!(need.bytes(tokens) <= bytes || tokens == usize::MAX, "{tokens}");
            prop_assert!(tokens == usize::MAX || need.bytes(tokens + 1) > bytes, "{tokens}");
        }
    }

    /// Something as small as the embedded toy.
    fn small() -> Needs {
        Needs {
            expert_bytes: vec![50_000; 6],
            expert_layers: (0..6).collect(),
            experts: 32,
            trunk: 3 * MIB,
            buffers: 13 * MIB,
            vocab: 4096,
            ..needs()
        }
    }

    #[test]
    fn the_window_is_as_wide_as_pays_where_there_is_room_and_no_wider_than_the_experts_without_a_slot() {
        let ram = |ram: u64| Wish { ram: Some(ram), ..Wish::default() };
        let large = plan(&needs(), &ram(1536 * MIB)).unwrap();
        assert_eq!((large.window, window(&large)), (WINDOW + 2 * 2_867_200, Some(WINDOW)));
        let some = plan(&small(), &Wish { slots: Some(12), ..ram(1536 * MIB) }).unwrap();
        assert_eq!(some.window, 20 * 6 * 50_000);
        let every = plan(&small(), &ram(1536 * MIB)).unwrap();
        assert_eq!((every.slots_per_layer, every.window), (32, 150_000), "an expert that comes into its slot");
        assert_eq!(window(&every), Some(WINDOW), "what is left over is used");
        let dense = Needs { expert_bytes: Vec::new(), expert_layers: Vec::new(), experts: 0, ..needs() };
        assert_eq!(plan(&dense, &ram(1536 * MIB)).unwrap().window, 0);
    }

    #[test]
    fn a_window_narrows_before_a_budget_is_refused() {
        let least = plan(&small(), &Wish { ram: Some(MIB), context: Some(512), ..Wish::default() }).unwrap_err();
        let BudgetError::TooSmall { trunk, cache, buffers, window: narrow, slot_bytes, .. } = least else { panic!("{least}") };
        let needed = trunk + cache + buffers + narrow + slot_bytes;
        let at = |ram: u64| plan(&small(), &Wish { ram: Some(ram), context: Some(512), ..Wish::default() });
        let kept = at(needed).unwrap();
        assert_eq!((kept.slots_per_layer, kept.window), (1, 150_000));
        assert_eq!(window(&kept), Some(50_000), "one expert at a time");
        assert!(at(needed - 1).is_err());
        // Then both grow.
        let mut last = kept;
        for more in 1..40 {
            let plan = at(needed + more * MIB / 4).unwrap();
            assert!(plan.slots_per_layer >= last.slots_per_layer && plan.together() <= needed + more * MIB / 4, "{plan:?}");
            last = plan;
        }
        assert_eq!(last.slots_per_layer, 32);
    }

    #[test]
    fn fewer_slots_than_a_budget_has_room_for_can_grow_to_as_many_as_it_has_and_keep_it() {
        for needs in [needs(), small()] {
            let mut limits = Vec::new();
            for ram in (60..=1600).map(|n| n * MIB) {
                let of = |slots| plan(&needs, &Wish { ram: Some(ram), slots, context: Some(512), ..Wish::default() });
                let (Ok(usual), Ok(one)) = (of(None), of(Some(1))) else { continue };
                assert_eq!((slot_limit(&one), slot_limit(&usual)), (usual.slots_per_layer, usual.slots_per_layer), "{ram}");
                let grown = one.together() - one.window - one.slots + usual.slots;
                assert!(grown + window(&one).unwrap() + around(needs.expert_bytes[0]) <= ram, "{ram}: {one:?}");
                assert_eq!(window(&one), window(&usual), "{ram}");
                limits.push(usual.slots_per_layer);
            }
            limits.dedup();
            assert!(limits.len() > 5 && limits.is_sorted(), "{limits:?}");
        }
    }

    #[test]
    fn the_sum_of_a_plan_without_a_budget_is_a_budget_for_as_many_slots() {
        for slots in [1, 12, 31, 32] {
            let wish = Wish { available: 20 << 30, slots: Some(slots), context: Some(512), ..Wish::default() };
            let free = plan(&small(), &wish).unwrap();
            let kept = plan(&small(), &Wish { ram: Some(free.together()), ..wish }).unwrap();
            assert_eq!(Plan { budget: None, ..kept }, free);
        }
    }

    #[test]
    fn only_what_can_be_lowered_is_advised() {
        let said = |wish: Wish| plan(&small(), &wish).unwrap_err().to_string();
        let ram = Some(40 * MIB);
        let least = said(Wish { ram, ..Wish::default() });
        assert!(least.ends_with("1 slot per layer 312.0 KiB); raise --ram, or take a smaller model"), "{least}");
        assert!(said(Wish { ram, slots: Some(9), ..Wish::default() }).ends_with("raise --ram, lower --slots, or take a smaller model"));
        let long = said(Wish { ram: Some(70 * MIB), context: Some(32_768), ..Wish::default() });
        assert!(long.contains("raise --ram, lower --ctx to ") && !long.contains("--slots"), "{long}");
    }

    #[test]
    fn a_device_is_planned_by_its_own_memory() {
        let room = |budget, free| DeviceRoom { name: "test".into(), free, budget, pinned: 10 * MIB };
        let wish = Wish { ram: Some(1), available: 1, ..Wish::default() };
        let plan = plan_on_device(&needs(), &wish, &room(None, 4 << 30)).unwrap();
        let used = plan.trunk + plan.cache + plan.buffers + plan.slots;
        assert!(
            used <= (4 << 30) - DEVICE_RESERVE && used + plan.slot_step > (4 << 30) - DEVICE_RESERVE,
            "the reserve stays free: {plan:?}"
        );
        assert_eq!((plan.device.as_deref(), plan.buffers), (Some("test"), 60 * MIB), "the program itself is in host memory");
        assert!(plan.host > 40 * MIB);
        let some = plan_on_device(&needs(), &wish, &room(Some(2 << 30), 4 << 30)).unwrap();
        assert!(some.slots_per_layer < plan.slots_per_layer && slot_limit(&some) == some.slots_per_layer);
        let much = plan_on_device(&needs(), &wish, &room(Some(5 << 30), 4 << 30)).unwrap_err().to_string();
        assert!(much.contains("--vram asks for 5.00 GiB, but 4.00 GiB are free on test"), "{much}");
        let little = plan_on_device(&needs(), &wish, &room(Some(300 * MIB), 4 << 30)).unwrap_err().to_string();
        assert!(little.contains("raise --vram") && !little.contains("window"), "{little}");
    }

    #[test]
    fn without_a_budget_all_experts_get_slots_if_they_fit_comfortably() {
        let all = plan(&needs(), &Wish { available: 20 << 30, ..Wish::default() }).unwrap();
        assert_eq!((all.slots_per_layer, all.budget), (128, None));
        let some = plan(&needs(), &Wish { available: 3 << 30, ..Wish::default() }).unwrap();
        assert!(some.slots_per_layer < 128 && some.slots_per_layer > 8);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers() {
        let small = plan(&needs(), &Wish { ram: Some(500 * MIB), ..Wish::default() }).unwrap_err();
        let text = small.to_string();
        assert!(text.starts_with("500.0 MiB are not enough") && text.contains("trunk 530.0 MiB") && text.contains("--ram"), "{text}");
        let context = plan(&needs(), &Wish { ram: Some(1024 * MIB), context: Some(32_768), ..Wish::default() }).unwrap_err();
        let BudgetError::TooSmall { fits, .. } = context else { panic!("{context}") };
        assert!(context.to_string().contains(&format!("lower --ctx to {fits}, ")), "{context}");
        let asked = |context| plan(&needs(), &Wish { ram: Some(1024 * MIB), context: Some(context), ..Wish::default() });
        assert!(asked(fits).is_ok() && asked(fits + 1).is_err());
        let many = plan(&needs(), &Wish { ram: Some(1536 * MIB), slots: Some(100), ..Wish::default() }).unwrap_err();
        assert!(matches!(many, BudgetError::TooSmall { slots: 100, .. }));
        let long = plan(&needs(), &Wish { context: Some(40_000), available: 20 << 30, ..Wish::default() }).unwrap_err();
        assert_eq!(long, BudgetError::Context { asked: 40_000, most: 32_768 });
        assert!(plan(&needs(), &Wish { context: Some(0), available: 20 << 30, ..Wish::default() }).is_err());
    }

    proptest! {
        #[test]
        fn every_plan_keeps_its_promise(ram in 0u64..8 << 30, slots in proptest::option::of(0usize..200),
                                        context in proptest::option::of(0usize..40_000)) {
            let wish = Wish { ram: Some(ram), slots, context, available: 0 };
            if let Ok(p) = plan(&needs(), &wish) {
                prop_assert!(p.together() <= ram);
                prop_assert!(p.window + (ram - p.together()) >= around(2_867_200) + window(&p).unwrap());
                prop_assert!(p.slots_per_layer >= p.min_slots && p.slots_per_layer <= p.max_slots);
                prop_assert!(slot_limit(&p) >= p.slots_per_layer);
                prop_assert!(context.is_none_or(|c| c == p.context));
            }
        }
    }
}
