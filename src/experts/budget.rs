//! The memory plan: from one number, what goes where. Pure; the caller says what the machine can give.

use crate::events::{LayerSlot, Plan};
use crate::size::size;

/// The program itself: code, threads, screen.
const PROCESS: u64 = 40 << 20;
/// The tokenizer, per token of the vocabulary: the text twice, its merges and their tables.
const PER_TOKEN_OF_VOCABULARY: u64 = 512;
/// Pages of the file that misses may hold at a time under a budget, if the experts are as many.
const WINDOW: u64 = 64 << 20;
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
        "{} are not enough for this model: it needs {} (trunk {}, context of {context} tokens {}, buffers {}, {}{slots} slot(s) per layer {}); \
         raise {knob}, lower --ctx or --slots, or take a smaller model{}",
        size(*budget), size(trunk + cache + buffers + window + slot_bytes), size(*trunk), size(*cache), size(*buffers),
        if *window > 0 { format!("file window {}, ", size(*window)) } else { String::new() }, size(*slot_bytes),
        if *fits > 0 { format!("; a context of at most {fits} tokens fits") } else { String::new() }
    )]
    TooSmall {
        /// What there is.
        budget: u64,
        /// Weights that every token uses.
        trunk: u64,
        /// The context.
        cache: u64,
        /// Buffers and the process.
        buffers: u64,
        /// Pages of the file that misses may hold.
        window: u64,
        /// Slots per layer that were asked for.
        slots: usize,
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
/// With a budget, slots take what is left after trunk, context and buffers. Without one, all experts get slots if that
/// fits comfortably into the available memory, and otherwise as many as do; an explicit slot count is then taken as it is.
///
/// # Errors
/// See [`BudgetError`].
pub fn plan(needs: &Needs, wish: &Wish) -> Result<Plan, BudgetError> {
    let budget = wish.ram.unwrap_or((wish.available as f64 * COMFORT) as u64);
    let largest = needs.expert_bytes.iter().copied().max().unwrap_or(0);
    // There is no more of the file than all experts.
    let all = needs.expert_bytes.iter().sum::<u64>().saturating_mul(needs.experts as u64);
    let window = wish.ram.map_or(0, |_| (WINDOW + 2 * largest).min(all));
    let buffers = needs.buffers + process(needs);
    let place = Place { budget, given: wish.ram, buffers, window, align: PAGE, knob: "--ram" };
    fit(needs, wish, &place)
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
    let place = Place { budget, given: Some(budget), buffers: needs.buffers, window: 0, align: DEVICE_ALIGN, knob: "--vram" };
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
    buffers: u64,
    window: u64,
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
    let Place { budget, buffers, window, .. } = *place;
    let slot_step = slot_step(needs, place.align);
    let fixed = needs.trunk + buffers + window + needs.states;
    let least_slots = wish.slots.unwrap_or(min_slots).max(min_slots);
    let room = budget.saturating_sub(fixed + least_slots as u64 * slot_step);
    let tokens_in = |bytes: u64| needs.cache.tokens(bytes).min(needs.context);
    // Context may take a quarter of what is left; the rest is for slots.
    let context = wish.context.unwrap_or_else(|| tokens_in(room / 4).clamp(LEAST_CONTEXT, USUAL_CONTEXT).min(needs.context));
    let cache = needs.cache.bytes(context) + needs.states;
    let left = budget.checked_sub(needs.trunk + buffers + window + cache);
    let fits = left.map(|left| usize::try_from(left.checked_div(slot_step).unwrap_or(u64::MAX)).unwrap_or(usize::MAX));
    if fits.is_none_or(|fits| fits < least_slots) {
        return Err(BudgetError::TooSmall {
            budget,
            trunk: needs.trunk,
            cache,
            buffers,
            window,
            slots: least_slots,
            slot_bytes: slot_step * least_slots as u64,
            context,
            fits: tokens_in(room),
            knob: place.knob,
        });
    }
    let slots = wish.slots.map_or_else(|| fits.unwrap_or(0).min(needs.experts), |_| least_slots);
    Ok(Plan {
        budget: place.given,
        trunk: needs.trunk,
        looked_up: needs.looked_up,
        cache,
        buffers,
        window,
        slots: slot_step * slots as u64,
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

/// Most slots per layer that the plan's budget allows; all of them if there is no budget.
#[must_use]
pub fn slot_limit(plan: &Plan) -> usize {
    let Some(budget) = plan.budget else { return plan.max_slots };
    let left = budget.saturating_sub(plan.trunk + plan.cache + plan.buffers + plan.window);
    usize::try_from(left.checked_div(plan.slot_step).unwrap_or(u64::MAX)).unwrap_or(usize::MAX).min(plan.max_slots)
}

/// How many bytes of file pages misses may hold at a time under this plan; `None` if there is no budget.
#[must_use]
pub fn window(plan: &Plan) -> Option<u64> {
    plan.budget.map(|_| WINDOW)
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
        let used = plan.trunk + plan.cache + plan.buffers + plan.window + plan.slots;
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

    #[test]
    fn the_window_for_pages_of_the_file_is_no_larger_than_all_experts() {
        let ram = Some(1536 * MIB);
        let large = plan(&needs(), &Wish { ram, ..Wish::default() }).unwrap();
        assert_eq!(large.window, WINDOW + 2 * 2_867_200);
        let small = Needs { expert_bytes: vec![50_000; 6], expert_layers: (0..6).collect(), experts: 32, trunk: 3 * MIB, ..needs() };
        let small_plan = plan(&small, &Wish { ram, ..Wish::default() }).unwrap();
        assert_eq!(small_plan.window, small_plan.experts);
        assert_eq!(
            plan(&small, &Wish { available: 20 << 30, ..Wish::default() }).unwrap().window,
            0,
            "without a budget nothing is dropped"
        );
        let refused = plan(&small, &Wish { ram: Some(50 * MIB), ..Wish::default() }).unwrap_err().to_string();
        assert!(refused.contains("file window 9.2 MiB, 1 slot(s)"), "{refused}");
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
        assert!(little.contains("raise --vram"), "{little}");
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
        assert!(context.to_string().ends_with(&format!("a context of at most {fits} tokens fits")), "{context}");
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
                prop_assert!(p.trunk + p.cache + p.buffers + p.window + p.slots <= ram);
                prop_assert!(p.slots_per_layer >= p.min_slots && p.slots_per_layer <= p.max_slots);
                prop_assert!(slot_limit(&p) >= p.slots_per_layer);
                prop_assert!(context.is_none_or(|c| c == p.context));
            }
        }
    }
}
