//! Flags that say how a model reasons.

use crate::events::{Effort, ModelCard};
use clap::Args;

/// How a model that can reason is to. What is not given comes from the configuration.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Think {
    /// Ask a model that can reason not to
    #[arg(long)]
    pub no_think: bool,
    /// How long a model that knows an effort (gpt-oss) reasons: low, medium or high
    #[arg(long, value_name = "EFFORT", value_parser = effort)]
    pub effort: Option<Effort>,
}

impl Think {
    /// What was asked of the reasoning of a model that has none, in sentences.
    #[must_use]
    pub fn idle(&self, card: &ModelCard) -> Vec<&'static str> {
        let think = (self.no_think && !card.can_think).then_some("--no-think has no effect: this model can't be told whether to reason");
        let effort = (self.effort.is_some() && !card.has_effort).then_some("--effort has no effect: this model knows no effort");
        [think, effort].into_iter().flatten().collect()
    }
}

fn effort(name: &str) -> Result<Effort, String> {
    Effort::from_name(&name.to_lowercase()).ok_or_else(|| "write low, medium or high".to_owned())
}
