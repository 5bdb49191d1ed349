//! What `rotary bench` can be told.

use crate::cli::{whole, Failure, Load};
use crate::gguf::{GgmlType, Gguf};
use crate::kernels;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Most rows of one table.
const MOST_ROWS: usize = 256;
/// Tokens of the prompt if nobody says.
const PROMPT: usize = 128;
/// Tokens to generate if nobody says.
const GEN: usize = 64;
/// Runs that count if nobody says.
const REPEAT: usize = 3;

/// Arguments of `rotary bench`.
#[derive(Debug, Args)]
#[command(
    override_usage = "rotary bench [OPTIONS] <MODEL>\n       rotary bench --kernels [--types TYPE,…] [--threads N]\n       \
                      rotary bench --profile [FILE.toml] [--threads N]",
    after_help = "\
Examples:
  rotary bench model.gguf --ram 8GiB
  rotary bench model.gguf --slots 8,16,24 --prompt 128,512 --format md

Token ids are drawn at random with a fixed seed, in prompts as in generation, so that the figures depend on no tokenizer
and on nothing that the model says. That is no text: a chat may hit more or less. `rotary run` tells the hit rate of an
answer, and `rotary simulate` that of a recorded one at other slot counts."
)]
pub struct BenchArgs {
    /// Path, downloaded name, or demo
    #[arg(required_unless_present_any = ["kernels", "profile"])]
    pub(super) model: Option<String>,
    /// No model: GB/s and GMAC/s of the CPU's matrix products, type by type
    #[arg(long, conflicts_with = "model")]
    pub(super) kernels: bool,
    /// With --kernels: only these types, such as q4_K,iq4_xs
    #[arg(long, value_name = "TYPE,…", value_delimiter = ',', value_parser = weight_type)]
    pub(super) types: Vec<GgmlType>,
    /// No model: measure this machine and write its profile for `rotary simulate`
    ///
    /// Without a FILE it is profiles/this-machine.toml in the configuration folder.
    #[arg(long, value_name = "FILE.toml", num_args = 0..=1, conflicts_with_all = ["model", "kernels"])]
    pub(super) profile: Option<Option<PathBuf>>,
    /// Tokens of the prompt, or several counts by commas [default: 128]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = whole::<usize>)]
    pub(super) prompt: Vec<usize>,
    /// Tokens to generate after it [default: 64, or what the model's context leaves]
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub(super) gen: Option<usize>,
    /// Runs that count, after one that begins with empty slots and warms up [default: 3]
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub(super) repeat: Option<usize>,
    /// Draw tokens that stay with a topic for a while: so many topics, by the rest of their id; tests/gpu/big_model.py has files whose
    /// routing follows them
    #[arg(long, value_name = "N", hide = true, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) topics: Option<u32>,
    /// On a GPU that holds every expert: of so many tokens, one goes layer by layer, so that its hits are timed; 1: all of them do
    #[arg(long, value_name = "N", hide = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) timed_every: Option<u32>,
    /// Instead: time steps that read up to N likely tokens along, beside those of one, and say how often these must be right for it to pay
    #[arg(long, value_name = "N", conflicts_with_all = ["kernels", "profile", "trace"], value_parser = clap::value_parser!(u8).range(1..=7))]
    pub(super) along: Option<u8>,
    #[command(flatten)]
    pub(super) load: Load,
    /// Record routing and times of all steps into a file, for `rotary simulate`
    #[arg(long, value_name = "FILE", help_heading = "Output", conflicts_with_all = ["kernels", "profile"])]
    pub(super) trace: Option<PathBuf>,
    /// How to print: text (one run in detail, several in a table), md, csv, or json (an array)
    #[arg(long, value_enum, value_name = "NAME", help_heading = "Output", conflicts_with_all = ["kernels", "profile", "along"])]
    pub(super) format: Option<Format>,
    /// One JSON object instead of text, or an array of them for several runs
    #[arg(long, help_heading = "Output", conflicts_with = "format")]
    pub(super) json: bool,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// A table in Markdown.
    Md,
    /// A row per run.
    Csv,
    /// An array of objects, one per run.
    Json,
}

fn weight_type(name: &str) -> Result<GgmlType, String> {
    GgmlType::from_name(name).filter(|&ty| kernels::supported(ty)).ok_or_else(|| {
        let known: Vec<_> = GgmlType::all().filter(|&ty| kernels::supported(ty)).map(GgmlType::name).collect();
        format!("no such type; there are {}", known.join(", "))
    })
}

/// What is to be measured once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Task {
    /// Slots per layer; `None`: those of the plan.
    pub(super) slots: Option<usize>,
    /// Tokens of the prompt.
    pub(super) prompt: usize,
    /// Tokens generated after it.
    pub(super) gen: usize,
    /// Runs that count.
    pub(super) repeat: usize,
}

impl BenchArgs {
    /// What was given and has no effect, since no model is measured or no kernels are.
    pub(super) fn idle(&self) -> Vec<String> {
        let no_model = self.kernels || self.profile.is_some();
        let given = [
            ("--types", !self.types.is_empty() && !self.kernels, "it belongs to --kernels"),
            ("--prompt", no_model && !self.prompt.is_empty(), "no model is measured"),
            ("--gen", no_model && self.gen.is_some(), "no model is measured"),
            ("--repeat", no_model && self.repeat.is_some(), "no model is measured"),
            ("--slots", no_model && self.load.slots.is_some(), "no model is measured"),
            ("--ram", no_model && self.load.ram.is_some(), "no model is measured"),
            ("--repeat", self.along.is_some() && self.repeat.is_some(), "--along times --gen rounds"),
        ];
        given.into_iter().filter(|g| g.1).map(|(flag, _, why)| format!("{flag} has no effect: {why}")).collect()
    }

    /// The runs, in the order of their rows, with what is to be said of them.
    ///
    /// # Errors
    /// Counts that measure nothing, or more tokens than the model's context holds.
    pub(super) fn tasks(&self, gguf: &Gguf) -> Result<(Vec<Task>, Option<String>), Failure> {
        let repeat = self.repeat.unwrap_or(REPEAT);
        let prompts = if self.prompt.is_empty() { vec![PROMPT] } else { self.prompt.clone() };
        if repeat == 0 || prompts.contains(&0) {
            return Err(Failure::usage("--repeat and --prompt must be at least 1"));
        }
        let slots = self.load.slots.as_ref().map_or_else(|| vec![None], |s| s.0.iter().map(|&n| Some(n)).collect());
        if slots.len().saturating_mul(prompts.len()) > MOST_ROWS {
            return Err(Failure::usage(format!("more than {MOST_ROWS} pairs of --slots and --prompt")));
        }
        let most = self.context_of(gguf);
        let longest = prompts.iter().copied().max().unwrap_or(PROMPT);
        // With --along, so many rounds of steps of every length, and one that warms up.
        let a_round = self.along.map_or(1, |n| (1..=1 + usize::from(n)).sum::<usize>());
        let warm_up = if self.along.is_some() { a_round } else { 0 };
        // One place stays for the token that would follow.
        let room = most.saturating_sub(1).saturating_sub(longest).saturating_sub(warm_up) / a_round;
        let shortest = self.gen.unwrap_or(1).saturating_mul(a_round).saturating_add(warm_up);
        if self.gen.unwrap_or(1) > room {
            let fits = most.saturating_sub(1).saturating_sub(shortest);
            let (context, said) = match self.load.ctx {
                Some(asked) if asked <= most => (format!("--ctx {asked}"), ", or a larger --ctx"),
                _ => (format!("the model's context of {most}"), ""),
            };
            let along = self.along.map_or_else(String::new, |n| format!(" with --along {n}"));
            let or = match (fits, self.gen) {
                (0, _) => format!("lower --gen{}{said}", if self.along.is_some() { " or --along" } else { "" }),
                (fits, Some(gen)) if room > 0 => {
                    format!("write --prompt {fits} for --gen {gen}, or --gen {room} for --prompt {longest}{said}")
                }
                (fits, _) => format!("write at most --prompt {fits}{said}"),
            };
            let gen = self.gen.map_or_else(String::new, |gen| format!(" and --gen {gen}"));
            let tokens = format!("the tokens of --prompt {longest}{gen}{along}");
            return Err(Failure::usage(format!("{tokens} do not fit into {context}: {or}")));
        }
        let gen = self.gen.unwrap_or(GEN.min(room));
        let told = (gen < GEN && self.gen.is_none())
            .then(|| format!("--gen {gen}: the context of {most} holds no more behind --prompt {longest}"));
        let task = |(&slots, &prompt): (&Option<usize>, &usize)| Task { slots, prompt, gen, repeat };
        Ok((slots.iter().flat_map(|slots| prompts.iter().map(move |prompt| (slots, prompt))).map(task).collect(), told))
    }

    /// The most tokens that a context may have: what was asked for, else what the file says.
    fn context_of(&self, gguf: &Gguf) -> usize {
        let key = gguf.arch().map(|arch| format!("{arch}.context_length")).unwrap_or_default();
        let trained = gguf.u64(&key).ok().flatten().and_then(|n| usize::try_from(n).ok());
        // Files without it are refused by what reads the model's numbers.
        self.load.ctx.unwrap_or(usize::MAX).min(trained.unwrap_or(usize::MAX))
    }

    /// Tokens that a task puts into the context.
    pub(super) fn needed(&self, task: &Task) -> usize {
        let steps = self.along.map_or(task.gen, |n| task.gen.saturating_add(1).saturating_mul((1..=1 + usize::from(n)).sum::<usize>()));
        task.prompt.saturating_add(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn tasks(args: &str) -> Result<(Vec<Task>, Option<String>), String> {
        let only = Only::try_parse_from(["bench", "demo"].into_iter().chain(args.split_whitespace())).unwrap();
        // Its context is 512.
        let gguf = Gguf::from_static(crate::demo::gguf(), "demo").unwrap();
        let tasks = only.bench.tasks(&gguf).map_err(|e| e.message)?;
        assert!(tasks.0.iter().all(|task| only.bench.needed(task) < 512), "{tasks:?}");
        Ok(tasks)
    }

    #[test]
    fn every_slot_count_meets_every_prompt() {
        let (rows, told) = tasks("--prompt 16,32 --gen 8 --repeat 2").unwrap();
        assert_eq!(rows.iter().map(|t| (t.slots, t.prompt, t.gen, t.repeat)).collect::<Vec<_>>(), [(None, 16, 8, 2), (None, 32, 8, 2)]);
        assert_eq!(told, None);
        assert!(tasks("--prompt 0").is_err() && tasks("--repeat 0").is_err());
    }

    #[test]
    fn what_was_not_asked_for_gives_way_and_what_was_is_refused_with_what_fits() {
        let (rows, told) = tasks("--prompt 500").unwrap();
        assert_eq!(rows[0].gen, 11);
        assert!(told.unwrap().starts_with("--gen 11: the context of 512"));
        let (rows, told) = tasks("--along 4").unwrap();
        assert!(rows[0].gen == 24 && told.is_some(), "{rows:?}");
        let refused = tasks("--prompt 9999").unwrap_err();
        assert_eq!(refused, "the tokens of --prompt 9999 do not fit into the model's context of 512: write at most --prompt 510");
        assert!(tasks("--prompt 510").is_ok());
        let refused = tasks("--prompt 500 --gen 64").unwrap_err();
        assert!(refused.ends_with("write --prompt 447 for --gen 64, or --gen 11 for --prompt 500"), "{refused}");
        assert!(tasks("--prompt 447 --gen 64").is_ok() && tasks("--prompt 448 --gen 64").is_err());
        let refused = tasks("--along 4 --gen 64").unwrap_err();
        assert!(refused.contains("with --along 4") && refused.ends_with("lower --gen or --along"), "{refused}");
        let refused = tasks("--ctx 100 --prompt 128").unwrap_err();
        assert!(refused.contains("--ctx 100: write at most --prompt 98, or a larger --ctx"), "{refused}");
    }
}
