//! Writes a trace: a whole one, or a session's while it runs.

use super::{HEADER, MAGIC, MAX_NAME};
use crate::events::{Event, Outcome, Phase, RoutedExpert, StepRecord};
use crate::text::one_line;
use crate::trace::routes::{Routes, RoutesHead, RoutesStep};
use std::io::Write;

/// Write a trace. A chunk of a prompt becomes one step with a row per expert and the gate weights of its tokens summed,
/// because v1 has no column for tokens. Words of the head that contain spaces get underscores.
///
/// # Errors
/// When the output can't be written.
pub fn write(mut out: impl Write, routes: &Routes) -> std::io::Result<()> {
    writeln!(out, "{MAGIC}")?;
    write_head(&mut out, &routes.head)?;
    for (i, step) in routes.steps().iter().enumerate() {
        write_step(&mut out, &routes.head, step, |layer| routes.tick(i, layer))?;
    }
    Ok(())
}

fn write_head(out: &mut impl Write, head: &RoutesHead) -> std::io::Result<()> {
    let word = |s: &str| one_line(s, MAX_NAME).split_whitespace().collect::<Vec<_>>().join("_");
    let trunk = if head.trunk_bytes > 0 { format!(" trunk_bytes={}", head.trunk_bytes) } else { String::new() };
    writeln!(
        out,
        "# model={} arch={} n_layer={} n_expert={} n_expert_used={}{trunk}",
        word(&head.model),
        word(&head.arch),
        head.layers,
        head.experts,
        head.top_k
    )?;
    for layer in 0..head.layers.min(head.expert_bytes.len().max(head.dense_bytes.len())) {
        let bytes = |list: &[u64]| list.get(layer).copied().unwrap_or(0);
        writeln!(out, "# layer={layer} expert_bytes={} dense_bytes={}", bytes(&head.expert_bytes), bytes(&head.dense_bytes))?;
    }
    writeln!(out, "{HEADER}")
}

fn write_step<'a>(
    out: &mut impl Write,
    head: &RoutesHead,
    step: &RoutesStep,
    tick: impl Fn(usize) -> &'a [RoutedExpert],
) -> std::io::Result<()> {
    let phase = u8::from(step.phase == Phase::Decode);
    for layer in 0..head.layers {
        for (rank, r) in tick(layer).iter().enumerate() {
            let hit = r.outcome == Outcome::Hit;
            let bytes = if hit { 0 } else { head.expert_bytes.get(layer).copied().unwrap_or(0) };
            writeln!(out, "{},{phase},{},{layer},{rank},{},{},{},{bytes}", step.turn, step.step, r.expert, r.weight, u8::from(hit))?;
        }
    }
    Ok(())
}

/// Writes the routing of a session while it runs: that of the first model that is opened.
pub struct Writer<W: Write> {
    out: W,
    head: Option<Box<RoutesHead>>,
    turn: u32,
    /// Another model was opened, which the format has no place for.
    over: bool,
}

impl<W: Write> Writer<W> {
    /// Begin a file.
    ///
    /// # Errors
    /// When the output can't be written.
    pub fn new(mut out: W) -> std::io::Result<Self> {
        writeln!(out, "{MAGIC}")?;
        Ok(Self { out, head: None, turn: 0, over: false })
    }

    /// Note an event of the text lane: models and turns.
    ///
    /// # Errors
    /// When the output can't be written.
    pub fn event(&mut self, event: &Event) -> std::io::Result<()> {
        match event {
            Event::Ready { .. } if self.head.is_some() => self.over = true,
            Event::Ready { card } => {
                let head = Routes::head_of(card);
                write_head(&mut self.out, &head)?;
                self.head = Some(Box::new(head));
            }
            Event::Finished { .. } => self.turn += 1,
            _ => {}
        }
        Ok(())
    }

    /// Write a step. One that does not fit the model is left out.
    ///
    /// # Errors
    /// When the output can't be written.
    pub fn step(&mut self, record: &StepRecord) -> std::io::Result<()> {
        let Some(head) = self.head.as_ref().filter(|_| !self.over) else { return Ok(()) };
        if record.layers() > head.layers || record.routed.iter().any(|r| usize::from(r.expert) >= head.experts) {
            return Ok(());
        }
        let step = RoutesStep { turn: self.turn, phase: record.phase, step: record.step, tokens: record.tokens, kept: record.kept };
        write_step(&mut self.out, head, &step, |layer| record.layer(layer))
    }

    /// Hand what was written so far to the system.
    ///
    /// # Errors
    /// When the output can't be written.
    pub fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
