//! A side of a comparison, as it is written on the command line.

use crate::cli::Failure;
use crate::trace::simulate::Contender;
use std::path::PathBuf;

/// What a side of a comparison is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Side {
    /// A policy at a slot count; what is missing is said elsewhere.
    Simulated { policy: Option<Contender>, slots: Option<usize> },
    /// What happened when the trace was recorded.
    Recorded,
    /// What happened in another recorded session.
    File(PathBuf),
}

impl Side {
    /// `lru`, `slots=32`, `policy=lru,slots=32`, `lru@32`, `recorded`, or a file.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let expected = |why: &str| {
            let why = if why.is_empty() { String::new() } else { format!(": {why}") };
            Failure::usage(format!(
                "--diff {:?}{why}; write a policy, slots or both (lru, slots=32, lru@32), recorded, or the file of a recorded session",
                crate::gguf::shown(text)
            ))
        };
        if text == "recorded" {
            return Ok(Self::Recorded);
        }
        let (mut policy, mut slots) = (None, None);
        let mut count = |n: &str| match n.trim().parse::<usize>() {
            Ok(n) if (1..=usize::from(u16::MAX)).contains(&n) => {
                slots = Some(n);
                Ok(())
            }
            _ => Err(format!("{:?} is no slot count", crate::gguf::shown(n))),
        };
        let mut who = |n: &str| n.trim().parse::<Contender>().map(|p| policy = Some(p)).map_err(|e| e.to_string());
        for part in text.split([',', '@']) {
            let done = match part.split_once('=') {
                Some(("slots", n)) => count(n),
                Some(("policy", n)) => who(n),
                _ if part.trim().bytes().all(|b| b.is_ascii_digit()) && !part.trim().is_empty() => count(part),
                _ => who(part),
            };
            if let Err(why) = done {
                let path = PathBuf::from(text);
                return if path.exists() { Ok(Self::File(path)) } else { Err(expected(&why)) };
            }
        }
        Ok(Self::Simulated { policy, slots })
    }
}
