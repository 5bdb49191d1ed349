//! Routers that are asked before their turn, on the device.

use super::*;
use crate::events::When::{self, Always, Auto, Never};
use crate::experts::schedule::LEAD;
use crate::experts::Experts;
use crate::gpu::params::{MatVec, Route};
use crate::gpu::simulated::{Faults, Speeds};
use crate::model::plan_on;
use std::collections::BTreeMap;

/// The reference models with routed experts in several layers, of every architecture.
const CASES: [&str; 11] =
    ["strict", "odd", "olmoe", "q4_k_m", "q35-strict", "q35-odd", "qwen3next", "glm-flash", "glm4moe", "qwen2moe", "minimax-m2"];

fn asking(foresee: When, options: LoadOptions) -> LoadOptions {
    LoadOptions { foresee, ..options }
}

/// With all experts in page-locked memory, from where they can come ahead without couriers.
fn held(slots: usize, ahead: usize) -> LoadOptions {
    LoadOptions { hold: When::Always, ahead: Some(ahead), ..options(slots) }
}

fn demo_held(options: &LoadOptions) -> OnDevice {
    let mut demo = demo_on_device(options, Order::Late);
    let held = demo.model.experts.hold_all().unwrap();
    assert_eq!(held.locked, held.of);
    demo
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|l| l.to_bits()).collect()
}

/// The demo model's own words after a prompt.
fn said(tokens: usize) -> Vec<u32> {
    let mut cpu = demo(&LoadOptions { context: Some(128), ..options(32) });
    let mut logits = step(&mut cpu, &PROMPT, Phase::Prefill, Logits::Last).0;
    let mut said = Vec::new();
    for _ in 0..tokens {
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as u32;
        said.push(best);
        logits = step(&mut cpu, &[best], Phase::Decode, Logits::Last).0;
    }
    said
}

#[test]
fn asking_changes_no_bit_no_schedule_and_takes_no_more_launches_or_waits() {
    let files = CASES.iter().map(|case| (*case, reference(case))).chain([("demo", demo_file())]);
    for (case, gguf) in files {
        // Which misses the device computes is not to depend on how fast the machine is at the moment.
        let options = LoadOptions { ahead: Some(0), miss: MissChoice::Gpu, ..options(2) };
        let mut pair = [Always, Never].map(|foresee| on_device(&gguf, &asking(foresee, options.clone()), Order::Late));
        let vocab = pair[0].model.config.vocab as u32;
        let prompt: Vec<u32> = (0..9).map(|i| (3 + i * 7) % vocab).collect();
        for (i, tokens) in [prompt.clone(), vec![5], vec![9], vec![2], vec![11], prompt, vec![6], vec![5]].iter().enumerate() {
            let phase = if tokens.len() == 1 { Phase::Decode } else { Phase::Prefill };
            let [asked, not] = pair.each_mut().map(|m| {
                let before = (m.device.launches(), m.device.host_waits());
                let (logits, mut record) = step(&mut m.model, tokens, phase, Logits::Last);
                let foreseen = std::mem::take(&mut record.foreseen);
                let record = StepRecord { time: Default::default(), ..record };
                (bits(&logits), record, m.device.launches() - before.0, m.device.host_waits() - before.1, foreseen)
            });
            assert!(asked.0 == not.0, "{case}, step {i}: other bits");
            assert_eq!(asked.1, not.1, "{case}, step {i}");
            assert_eq!((asked.2, asked.3), (not.2, not.3), "{case}, step {i}: launches and waits");
            assert_eq!((asked.4.is_empty(), not.4.is_empty()), (tokens.len() > 1, true), "{case}, step {i}");
        }
        for OnDevice { model, device } in pair {
            assert_eq!(device.violations(), Vec::<String>::new(), "{case}");
            drop(model);
            assert_eq!((device.used(), device.pinned_used()), (0, 0), "{case}: everything is given back");
        }
    }
}

#[test]
fn asking_takes_no_more_copies() {
    // One for the routing of each layer, and one for the logits. One less is too few, so they are all counted.
    for foresee in [Always, Never] {
        for missing in 0..2 {
            let OnDevice { mut model, device } = on_device(&reference("strict"), &asking(foresee, options(2)), Order::Queued);
            step(&mut model, &[1, 2, 3], Phase::Prefill, Logits::Last);
            let copies = model.expert_bytes.len() as u64 + 1 - missing;
            device.fail(Faults { download: Some(copies), ..Faults::default() });
            model.experts.begin_step(Phase::Decode, 1);
            let done = model.model.forward(&[7], &mut model.experts, Logits::Last, &|| false);
            assert_eq!(done.is_ok(), missing == 0, "{foresee:?}, {copies} copies");
        }
    }
}

/// A row of the router gets the same bits whether or not its launch has the next routers' rows too: as many warps share it.
#[test]
fn the_rows_of_a_router_are_cut_the_same_way_beside_those_of_the_next_ones() {
    for cols in [64, 512, 1024, 2048, 4096, 8192] {
        for experts in 1..=Route::EXPERTS {
            let together = (1..=1 + LEAD as u32).map(|routers| MatVec::split(routers * experts, cols));
            assert!(together.into_iter().all(|split| split == MatVec::split(experts, cols)), "{experts} experts, {cols} columns");
        }
    }
}

/// What both foresee of each of these tokens: how much was told, and how far apart they are at most, in 255ths.
fn foreseen_by(mut cpu: Opened, mut gpu: OnDevice, prompt: &[u32], tokens: &[u32]) -> (usize, i32) {
    for m in [&mut cpu, &mut gpu.model] {
        step(m, prompt, Phase::Prefill, Logits::Last);
    }
    let (mut worst, mut told) = (0, 0);
    for &token in tokens {
        let [a, b] = [&mut cpu, &mut gpu.model].map(|m| {
            let (_, record) = step(m, &[token], Phase::Decode, Logits::None);
            let of = |f: &crate::events::Foreseen| ((f.layer, f.lead, f.expert), i32::from(f.likely));
            record.foreseen.iter().map(of).collect::<BTreeMap<_, _>>()
        });
        told += b.len();
        for key in a.keys().chain(b.keys()) {
            // What is hardly likely is not told: below 13.
            let [a, b] = [&a, &b].map(|told| told.get(key).copied());
            let apart = (a.unwrap_or(12).max(12) - b.unwrap_or(12).max(12)).abs();
            worst = worst.max(apart);
        }
    }
    (told, worst)
}

#[test]
fn what_is_foreseen_is_what_the_cpu_foresees() {
    let options = asking(Always, LoadOptions { ahead: Some(0), ..options(6) });
    let (told, worst) = foreseen_by(demo(&options), demo_on_device(&options, Order::Queued), &PROMPT, &said(12));
    assert!(told > 200 && worst <= 3, "{told} told, at most {worst} of 255 apart");
}

#[test]
fn so_it_is_where_experts_are_chosen_with_a_bias() {
    for case in ["glm-flash", "glm4moe", "minimax-m2", "lfm2moe"] {
        let (gguf, options) = (reference(case), asking(Always, LoadOptions { ahead: Some(0), ..options(2) }));
        let cpu = open_on(&gguf, &options, Pool::new(2), None, &mut |_, _| true).unwrap();
        let gpu = on_device(&gguf, &options, Order::Queued);
        let (told, worst) = foreseen_by(cpu, gpu, &[1, 7, 40, 250, 3], &[7, 250, 40, 77, 7, 9, 12, 5, 11, 2]);
        assert!(told > 20 && worst <= 3, "{case}: {told} told, at most {worst} of 255 apart");
    }
}

/// What is switched, and whether tokens ask from then on.
type Switch<'a> = (&'a dyn Fn(&mut Experts), bool);

#[test]
fn policies_and_experts_ahead_may_be_switched_in_the_middle() {
    let mut cpu = demo(&options(6));
    let mut gpu = demo_held(&asking(Auto, held(6, 1)));
    for m in [&mut cpu, &mut gpu.model] {
        step(m, &PROMPT, Phase::Prefill, Logits::Last);
    }
    let mut launches = Vec::new();
    let policy = |name: &'static str| move |experts: &mut Experts| experts.set_policy(name).unwrap();
    let ahead = |ahead: usize| move |experts: &mut Experts| experts.set_ahead(Some(ahead));
    let resize = |slots: usize| move |experts: &mut Experts| assert_eq!(experts.resize(slots).unwrap(), slots);
    let switches: [Switch<'_>; 9] = [
        (&|_| (), true),
        (&policy("lru"), false),
        (&policy("rotary"), true),
        (&ahead(0), false),
        (&ahead(2), true),
        (&resize(9), true),
        (&policy("decay"), false),
        (&ahead(1), false),
        (&policy("rotary"), true),
    ];
    for (i, (switch, asks)) in switches.iter().enumerate() {
        switch(&mut gpu.model.experts);
        for (j, token) in [7, 300, 4000].into_iter().enumerate() {
            let before = gpu.device.launches();
            let (a, _) = step(&mut cpu, &[token], Phase::Decode, Logits::Last);
            let (b, record) = step(&mut gpu.model, &[token], Phase::Decode, Logits::Last);
            assert!(error(&a, &b) < ROUNDING, "switch {i}, token {j}: {}", error(&a, &b));
            assert_eq!(!record.foreseen.is_empty(), *asks, "switch {i}, token {j}");
            launches.push(gpu.device.launches() - before);
        }
    }
    // The first token goes launch by launch. The others are recorded, whatever they ask; what comes on top is for misses and what came ahead.
    assert!(launches[1..].iter().all(|n| n * 3 < launches[0] * 2), "{launches:?}");
    assert_eq!(gpu.device.violations(), Vec::<String>::new());
}

#[test]
fn more_is_hit_when_routers_are_asked() {
    let said = said(40);
    let hits = [Always, Auto, Never].map(|foresee| {
        let options = LoadOptions { context: Some(128), ..asking(foresee, held(6, 1)) };
        let OnDevice { mut model, device } = demo_held(&options);
        step(&mut model, &PROMPT, Phase::Prefill, Logits::Last);
        let hits: u64 = said.iter().map(|&token| step(&mut model, &[token], Phase::Decode, Logits::None).1.hits_and_routed().0).sum();
        assert_eq!(device.violations(), Vec::<String>::new());
        hits
    });
    assert!(hits[0] == hits[1] && hits[0] * 4 > hits[2] * 5, "{hits:?} of {}", 40 * 6 * 4);
}

#[test]
fn the_plan_counts_them_where_they_may_be_asked() {
    let plan = |options: &LoadOptions| {
        let OnDevice { model, device } = demo_on_device(options, Order::Queued);
        let p = &model.plan;
        assert!(device.used() <= p.trunk + p.cache + p.buffers + p.slots, "{options:?}: {} of {p:?}", device.used());
        (p.trunk, device.used())
    };
    let never = plan(&asking(Never, held(6, 1)));
    // Of six layers the first four have two layers to ask, and the fifth has one.
    let config = demo(&options(6)).config;
    let bytes = crate::model::early::bytes(config.blocks, config.experts, config.hidden);
    assert_eq!(bytes, (9 * config.experts * config.hidden / 32 * 34) as u64);
    let asked = plan(&asking(Always, held(6, 0)));
    assert_eq!(asked.0 - never.0, bytes);
    assert!(asked.1 - never.1 >= bytes);
    assert_eq!(plan(&asking(Auto, held(6, 1))).0, asked.0);
    let lru = LoadOptions { policy: Some("lru".into()), ..held(6, 1) };
    for (why, options) in [("none comes ahead", held(6, 0)), ("every expert has a slot", held(32, 1)), ("another policy", lru)] {
        let (with, without) = (plan(&asking(Auto, options.clone())), plan(&asking(Never, options)));
        assert_eq!(with, without, "{why}");
    }
    let cpu = [Always, Auto, Never].map(|foresee| demo(&asking(foresee, options(6))).plan.trunk);
    assert_eq!(cpu.map(|trunk| trunk - cpu[2]), [bytes, 0, 0], "on the CPU only if told to");
}

/// The link's speed over which the demo model's experts come in time, times `by`.
fn over_a_link(by: f64) -> Simulated {
    let largest = *demo(&options(6)).expert_bytes.iter().max().unwrap();
    let link = by * largest as f64 / 125e-6;
    Simulated::new(Options { speeds: Speeds { link, ..Speeds::default() }, ..Options::default() })
}

#[test]
fn routers_take_room_from_slots_only_where_the_link_brings_experts_in_time() {
    let gguf = demo_file();
    let within = |vram: u64, foresee| LoadOptions { slots: None, vram: Some(vram), ahead: None, ..asking(foresee, held(6, 1)) };
    let planned = |options: &LoadOptions, device: &Simulated| plan_on(&gguf, options, u64::MAX, Some(device)).unwrap().plan;
    let full = |p: &crate::events::Plan| p.trunk + p.cache + p.buffers + p.slots;

    let vram = full(&planned(&within(16 << 20, Never), &over_a_link(1.0)));
    let without = planned(&within(vram, Never), &over_a_link(1.0));
    assert!(full(&without) == vram && without.slots_per_layer > 1, "no byte is left for routers: {without:?}");
    let bytes = crate::model::early::bytes(without.slot_bytes.len(), without.max_slots, demo(&options(6)).config.hidden);

    for (by, comes) in [(0.8, false), (1.25, true)] {
        let device = over_a_link(by);
        let opened = open_on(&gguf, &within(vram, Auto), Pool::new(1), Some(Arc::new(device.clone())), &mut |_, _| true).unwrap();
        let (trunk, slots) = if comes { (bytes, 1) } else { (0, 0) };
        let plan = &opened.plan;
        assert_eq!((plan.trunk - without.trunk, without.slots_per_layer - plan.slots_per_layer), (trunk, slots), "{by} of what is needed");
        assert!(device.used() <= full(plan) && full(plan) <= vram);
        drop(opened);
        assert_eq!((device.used(), device.pinned_used()), (0, 0));
    }

    let unknown = over_a_link(0.01);
    unknown.fail(Faults { pinned: Some(0), ..Faults::default() });
    assert_eq!(planned(&within(vram, Auto), &unknown).trunk - without.trunk, bytes, "a link that can't be measured counts as fast");
}

#[test]
fn the_link_is_measured_only_where_it_decides() {
    let auto = LoadOptions { ahead: None, ..asking(Auto, held(6, 1)) };
    let measured = |options: LoadOptions| {
        let device = over_a_link(1.0);
        plan_on(&demo_file(), &options, u64::MAX, Some(&device)).unwrap();
        device.host_us() > 0.0
    };
    assert!(measured(auto.clone()));
    for foresee in [Always, Never] {
        assert!(!measured(asking(foresee, auto.clone())), "{foresee:?}");
    }
    for ahead in [0, 1] {
        assert!(!measured(LoadOptions { ahead: Some(ahead), ..auto.clone() }), "so many come: {ahead}");
    }
    assert!(!measured(LoadOptions { policy: Some("lru".into()), ..auto.clone() }));
    assert!(!measured(LoadOptions { hold: When::Never, ..auto.clone() }), "none can be page-locked");
    assert!(!measured(LoadOptions { slots: Some(32), ..auto }), "every expert has a slot");
}
