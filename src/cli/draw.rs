//! Flags that say how tokens are drawn.

use super::number::{fraction, whole};
use crate::events::Sampling;
use clap::Args;

/// How tokens are drawn. What is not given comes from the configuration, else from the model file, else from the program.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Sampling")]
pub struct Draw {
    /// Always take the most likely token (the same as --temperature 0)
    #[arg(long, conflicts_with = "temperature")]
    pub greedy: bool,
    /// Flatten (above 1) or sharpen (below 1) the probabilities; 0 is greedy
    #[arg(long, value_name = "X", value_parser = fraction::<f32>)]
    pub temperature: Option<f32>,
    /// Draw among the K most likely tokens; 0 is all
    #[arg(long, value_name = "K", value_parser = whole::<usize>)]
    pub top_k: Option<usize>,
    /// Draw among the smallest set with this probability; 1 is all
    #[arg(long, value_name = "P", value_parser = fraction::<f32>)]
    pub top_p: Option<f32>,
    /// Drop tokens less than this fraction as likely as the best; 0 is none
    #[arg(long, value_name = "P", value_parser = fraction::<f32>)]
    pub min_p: Option<f32>,
    /// Make tokens that have occurred less likely; 1 is off
    #[arg(long, value_name = "X", value_parser = fraction::<f32>)]
    pub repetition_penalty: Option<f32>,
    /// Subtract this from the logits of tokens that the answer has used; 0 is off
    #[arg(long, value_name = "X", value_parser = fraction::<f32>)]
    pub presence_penalty: Option<f32>,
    /// Seed of the random draw; the same seed gives the same answer
    #[arg(long, value_name = "N", value_parser = whole::<u64>)]
    pub seed: Option<u64>,
}

impl Draw {
    /// Whether anything was given.
    #[must_use]
    pub fn is_given(&self) -> bool {
        let numbers = [self.temperature, self.top_p, self.min_p, self.repetition_penalty, self.presence_penalty];
        self.greedy || self.top_k.is_some() || self.seed.is_some() || numbers.iter().any(Option::is_some)
    }

    /// Flags laid over `base`.
    #[must_use]
    pub fn over(&self, base: Sampling) -> Sampling {
        Sampling {
            temperature: if self.greedy { 0.0 } else { self.temperature.unwrap_or(base.temperature) },
            top_k: self.top_k.unwrap_or(base.top_k),
            top_p: self.top_p.unwrap_or(base.top_p),
            min_p: self.min_p.unwrap_or(base.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(base.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(base.presence_penalty),
            seed: self.seed.or(base.seed),
            max_tokens: base.max_tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_stronger_than_what_the_file_or_the_configuration_says() {
        let base = Sampling { temperature: 0.6, top_k: 20, seed: Some(1), ..Sampling::default() };
        let draw = Draw { greedy: true, top_k: Some(5), ..Draw::default() };
        let got = draw.over(base.clone());
        assert_eq!((got.temperature, got.top_k, got.top_p, got.seed), (0.0, 5, base.top_p, Some(1)));
    }
}
