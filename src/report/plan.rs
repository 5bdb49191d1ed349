//! The memory plan of a model: what goes where, before anything is loaded.

use super::size;
use crate::cli::{configuration, find_model, Failure, Load};
use crate::engine::{gauges, open, EngineError};
use crate::events::Plan;
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
    let plan = crate::model::plan(&gguf, &args.load.options(&config), available).map_err(|e| Failure::from(EngineError::from(e)))?;
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
    let used = plan.trunk + plan.cache + plan.buffers + plan.slots;
    let mut out = String::from("memory plan\n");
    let mut line = |name: &str, bytes: u64, note: &str| out += &format!("  {name:<10} {:>11}  {note}\n", size(bytes));
    line("trunk", plan.trunk, "weights that every token uses");
    line("context", plan.cache, &format!("keys and values of {} tokens", plan.context));
    line("buffers", plan.buffers, "activations, logits, tokenizer, the program itself");
    let note = format!("{} of {} experts per layer, {} for one more", plan.slots_per_layer, plan.max_slots, size(plan.slot_step));
    line("slots", plan.slots, &note);
    line("together", used, &plan.budget.map_or("no budget was given".to_owned(), |b| format!("of a budget of {}", size(b))));
    line("experts", plan.experts, "all routed experts; those without a slot stay in the mapped file");
    out
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
            slots: 4 << 30,
            slot_step: 100 << 20,
            experts: 16 << 30,
            slots_per_layer: 40,
            min_slots: 1,
            max_slots: 128,
            context: 4096,
        };
        insta::assert_snapshot!(table(&plan), @r"
        memory plan
          trunk         1.00 GiB  weights that every token uses
          context      512.0 MiB  keys and values of 4096 tokens
          buffers      256.0 MiB  activations, logits, tokenizer, the program itself
          slots         4.00 GiB  40 of 128 experts per layer, 100.0 MiB for one more
          together      5.75 GiB  of a budget of 8.00 GiB
          experts      16.00 GiB  all routed experts; those without a slot stay in the mapped file
        ");
    }
}
