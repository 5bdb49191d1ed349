//! The memory plan of a model: what goes where, before anything is loaded.

use crate::cli::{configuration, find_model, tell_idle, Failure, Load};
use crate::engine::{gauges, open, EngineError};
use crate::events::{LayerSlot, Plan};
use crate::size::size;
use clap::Args;
use color_eyre::eyre;
use std::io::Write;
use std::process::ExitCode;

/// Arguments of `rotary plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Path, downloaded name, or demo
    model: String,
    #[command(flatten)]
    load: Load,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Print the plan.
pub fn run(args: &PlanArgs) -> eyre::Result<ExitCode> {
    let config = configuration();
    let gguf = open::map(&find_model(&args.model, &config)?).map_err(Failure::from)?;
    let available = gauges::process_memory().available;
    let options = args.load.options(&config);
    let plan = crate::model::plan(&gguf, &options, available).map_err(|e| Failure::from(EngineError::from(e)))?;
    tell_idle(&options, &plan, false);
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &plan)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", table(&plan))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The plan as a table of lines.
#[must_use]
pub fn table(plan: &Plan) -> String {
    let mut out = match &plan.device {
        Some(device) => format!("memory plan, on {device}\n"),
        None => String::from("memory plan\n"),
    };
    let mut line = |name: &str, bytes: u64, note: &str| out += &format!("  {name:<10} {:>11}  {note}\n", size(bytes));
    line("trunk", plan.trunk, "weights that every token uses");
    let states =
        if plan.states > 0 { format!(", and {} for recurrent states and copies of them", size(plan.states)) } else { String::new() };
    line("context", plan.cache, &format!("keys and values of {} tokens{states}", plan.context));
    let note =
        if plan.device.is_some() { "activations, logits, experts on their way" } else { "activations and logits of the longest pass" };
    line("buffers", plan.buffers - plan.program.min(plan.buffers), note);
    if plan.device.is_none() {
        line("program", plan.program, "tokenizer, threads, screen: the program itself, at most");
        line("window", plan.window, &window_note(plan));
    }
    line("slots", plan.slots, &slots_note(plan));
    for (bytes, layers) in unlike(&plan.slot_bytes) {
        line("", bytes, &format!("for one slot of {layers}"));
    }
    let note = plan.budget.map_or("no budget was given".to_owned(), |b| format!("of a budget of {}", size(b)));
    line("together", plan.together(), &note);
    if plan.device.is_some() {
        line("host", plan.host, "in host memory: tokenizer, page-locked buffers, the program itself");
    }
    let note = match (plan.slots_per_layer < plan.max_slots, plan.device.is_some()) {
        _ if plan.max_slots == 0 => "this model has no routed experts: all of it is trunk",
        (false, _) => "all routed experts, each of which has a slot",
        (true, true) => "all routed experts; copied into RAM where there is room for all (--hold), else read from the file",
        (true, false) => "all routed experts; those without a slot stay in the mapped file",
    };
    line("experts", plan.experts, note);
    out
}

fn window_note(plan: &Plan) -> String {
    match plan.max_slots - plan.slots_per_layer.min(plan.max_slots) {
        _ if plan.max_slots == 0 => "pages of the file: none, without experts".to_owned(),
        0 => "pages of the file while an expert comes into its slot".to_owned(),
        _ => "pages of the file that experts without a slot hold at a time; narrower under a smaller --ram".to_owned(),
    }
}

fn slots_note(plan: &Plan) -> String {
    let (slots, most) = (plan.slots_per_layer, plan.max_slots);
    if most == 0 {
        return "none".to_owned();
    }
    if slots >= most {
        return format!("all {most} experts of each layer");
    }
    // A slot is a whole number of pages, so that each can be given back by itself.
    let bare = plan.slot_bytes.iter().map(|s| s.bytes).sum::<u64>();
    let rounded = if plan.slot_step > bare && bare > 0 { format!(" ({} rounded up)", size(bare)) } else { String::new() };
    format!("{slots} of {most} experts per layer, {} for one more{rounded}", size(plan.slot_step))
}

/// Slot sizes with the layers that have them, largest group first; nothing if all layers are alike.
fn unlike(slots: &[LayerSlot]) -> Vec<(u64, String)> {
    let mut groups: Vec<(u64, Vec<usize>)> = Vec::new();
    for slot in slots {
        match groups.iter_mut().find(|(bytes, _)| *bytes == slot.bytes) {
            Some((_, layers)) => layers.push(slot.layer),
            None => groups.push((slot.bytes, vec![slot.layer])),
        }
    }
    if groups.len() < 2 {
        return Vec::new();
    }
    groups.sort_by_key(|(_, layers)| std::cmp::Reverse(layers.len()));
    groups.into_iter().map(|(bytes, layers)| (bytes, ranges(&layers))).collect()
}

/// "layers 0-3, 5": rising numbers, neighbours together.
fn ranges(layers: &[usize]) -> String {
    let mut out: Vec<(usize, usize)> = Vec::new();
    for &l in layers {
        match out.last_mut() {
            Some((_, last)) if *last + 1 == l => *last = l,
            _ => out.push((l, l)),
        }
    }
    let spell = |(a, b): &(usize, usize)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    let all: Vec<String> = out.iter().map(spell).collect();
    format!("{} {}", if layers.len() == 1 { "layer" } else { "layers" }, all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_adds_up_on_the_page() {
        let plan = Plan {
            budget: Some(8 << 30),
            trunk: 1 << 30,
            cache: 1 << 29,
            buffers: 1 << 28,
            program: 40 << 20,
            window: 1 << 26,
            slots: 4 << 30,
            slot_step: 100 << 20,
            experts: 16 << 30,
            slots_per_layer: 40,
            min_slots: 1,
            max_slots: 128,
            context: 4096,
            ..Plan::default()
        };
        insta::assert_snapshot!(table(&plan), @r"
        memory plan
          trunk         1.00 GiB  weights that every token uses
          context      512.0 MiB  keys and values of 4096 tokens
          buffers      216.0 MiB  activations and logits of the longest pass
          program       40.0 MiB  tokenizer, threads, screen: the program itself, at most
          window        64.0 MiB  pages of the file that experts without a slot hold at a time; narrower under a smaller --ram
          slots         4.00 GiB  40 of 128 experts per layer, 100.0 MiB for one more
          together      5.81 GiB  of a budget of 8.00 GiB
          experts      16.00 GiB  all routed experts; those without a slot stay in the mapped file
        ");
    }

    #[test]
    fn layers_of_mixed_types_have_slots_of_their_own_size_and_recurrent_states_are_told() {
        let slot = |layer, bytes| LayerSlot { layer, bytes };
        let slot_bytes = vec![slot(1, 1 << 20), slot(2, 1 << 20), slot(3, 3 << 20), slot(4, 1 << 20), slot(7, 3 << 20), slot(8, 2 << 20)];
        let text = table(&Plan {
            states: 440 << 20,
            cache: 500 << 20,
            slot_bytes,
            slot_step: 11 << 20,
            max_slots: 4,
            context: 8192,
            ..Plan::default()
        });
        insta::assert_snapshot!(text, @r"
        memory plan
          trunk              0 B  weights that every token uses
          context      500.0 MiB  keys and values of 8192 tokens, and 440.0 MiB for recurrent states and copies of them
          buffers            0 B  activations and logits of the longest pass
          program            0 B  tokenizer, threads, screen: the program itself, at most
          window             0 B  pages of the file that experts without a slot hold at a time; narrower under a smaller --ram
          slots              0 B  0 of 4 experts per layer, 11.0 MiB for one more
                         1.0 MiB  for one slot of layers 1-2, 4
                         3.0 MiB  for one slot of layers 3, 7
                         2.0 MiB  for one slot of layer 8
          together     500.0 MiB  no budget was given
          experts            0 B  all routed experts; those without a slot stay in the mapped file
        ");
        assert!(unlike(&[slot(0, 5), slot(1, 5)]).is_empty(), "all alike");
    }
}
