//! Reads a trace. It trusts nothing: lines, ids and counts are checked, and an error names line and column.

use super::{CsvError, HEADER, MAGIC, MAX_LINE, MAX_NAME, MAX_ROWS};
use crate::events::{Outcome, Phase, RoutedExpert};
use crate::text::one_line;
use crate::trace::routes::{Routes, RoutesHead, RoutesStep, MAX_EXPERTS, MAX_LAYERS};
use std::io::{BufRead, Read};

/// Reads lines of bounded length.
struct Lines<R> {
    input: R,
    line: usize,
    bytes: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// The next line without its end, or `None` at the end of the file.
    fn next(&mut self) -> Result<Option<&str>, CsvError> {
        self.bytes.clear();
        self.line += 1;
        let n = self.input.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut self.bytes)?;
        if n == 0 {
            return Ok(None);
        }
        if n > MAX_LINE {
            return Err(CsvError::Line { line: self.line });
        }
        while matches!(self.bytes.last(), Some(b'\n' | b'\r')) {
            self.bytes.pop();
        }
        std::str::from_utf8(&self.bytes).map(Some).map_err(|_| CsvError::Line { line: self.line })
    }
}

/// Read a whole trace.
///
/// # Errors
/// [`CsvError`], naming line and column.
pub fn read(input: impl BufRead) -> Result<Routes, CsvError> {
    let mut lines = Lines { input, line: 0, bytes: Vec::new() };
    if lines.next()?.map(str::trim_end) != Some(MAGIC) {
        return Err(CsvError::NotATrace);
    }
    let mut head = RoutesHead::default();
    loop {
        let line = lines.line + 1;
        let Some(text) = lines.next()? else {
            return Err(CsvError::Header { line, field: "turn", problem: "missing: the file ends before the rows".into() });
        };
        if let Some(comment) = text.strip_prefix('#') {
            comment_line(&mut head, comment, line)?;
        } else if text == HEADER {
            break;
        } else if !text.trim().is_empty() {
            return Err(CsvError::Header { line, field: "turn", problem: format!("expected: the row {HEADER:?}") });
        }
    }
    if head.layers == 0 || head.experts == 0 {
        let field = if head.layers == 0 { "n_layer" } else { "n_expert" };
        return Err(CsvError::Header { line: lines.line, field, problem: "missing or 0".into() });
    }
    rows(lines, head)
}

/// One `#` line of the header. Unknown words are passed over, so that a later v1 may add some.
fn comment_line(head: &mut RoutesHead, comment: &str, line: usize) -> Result<(), CsvError> {
    let number = |field: &'static str, value: &str, most: u64| {
        value.parse::<u64>().ok().filter(|n| *n <= most).ok_or_else(|| CsvError::Header {
            line,
            field,
            problem: format!("not a number up to {most}: {:?}", clip(value)),
        })
    };
    let mut layer = None;
    for word in comment.split_whitespace() {
        let Some((key, value)) = word.split_once('=') else { continue };
        match key {
            "model" => head.model = one_line(value, MAX_NAME),
            "arch" => head.arch = one_line(value, MAX_NAME),
            "n_layer" => head.layers = number("n_layer", value, MAX_LAYERS as u64)? as usize,
            "n_expert" => head.experts = number("n_expert", value, MAX_EXPERTS as u64)? as usize,
            "n_expert_used" => head.top_k = number("n_expert_used", value, MAX_EXPERTS as u64)? as usize,
            "trunk_bytes" => head.trunk_bytes = number("trunk_bytes", value, 1 << 50)?,
            "layer" => layer = Some(number("layer", value, (MAX_LAYERS - 1) as u64)? as usize),
            "expert_bytes" | "dense_bytes" => {
                let Some(layer) = layer.filter(|l| *l < head.layers) else {
                    return Err(CsvError::Header { line, field: "layer", problem: "missing or not below n_layer".into() });
                };
                let (field, list) = match key {
                    "expert_bytes" => ("expert_bytes", &mut head.expert_bytes),
                    _ => ("dense_bytes", &mut head.dense_bytes),
                };
                let bytes = number(field, value, 1 << 50)?;
                if list.len() <= layer {
                    list.resize(layer + 1, 0);
                }
                list[layer] = bytes;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The rows, gathered into steps. They may come in any order: engines read a prompt layer by layer.
fn rows(mut lines: Lines<impl BufRead>, head: RoutesHead) -> Result<Routes, CsvError> {
    let (layers, experts) = (head.layers, head.experts);
    let mut rows = Vec::new();
    loop {
        let line = lines.line + 1;
        let Some(text) = lines.next()? else { break };
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if rows.len() == MAX_ROWS {
            return Err(CsvError::TooLong);
        }
        rows.push(Row::parse(text, line, layers, experts)?);
    }
    rows.sort_by_key(|r| (r.turn, r.decode, r.step, r.layer, r.rank));
    let mut routes = Routes::new(head);
    let mut seen = vec![0usize; experts];
    let mut routed: Vec<RoutedExpert> = Vec::new();
    let mut ends: Vec<usize> = Vec::new();
    let mut ticks = 0;
    for step in rows.chunk_by(|a, b| (a.turn, a.decode, a.step) == (b.turn, b.decode, b.step)) {
        routed.clear();
        ends.clear();
        for tick in step.chunk_by(|a, b| a.layer == b.layer) {
            ticks += 1;
            ends.resize(usize::from(tick[0].layer), routed.len());
            for (rank, row) in tick.iter().enumerate() {
                let line = row.line as usize;
                if usize::from(row.rank) != rank {
                    return Err(value(line, "slot", "the ranks of a layer in a step have to count from 0, each once"));
                }
                if std::mem::replace(&mut seen[usize::from(row.routed.expert)], ticks) == ticks {
                    return Err(value(line, "expert", "chosen twice in one layer of one step"));
                }
                routed.push(row.routed);
            }
            ends.push(routed.len());
        }
        let phase = if step[0].decode { Phase::Decode } else { Phase::Prefill };
        let mut start = 0;
        let slices = ends.iter().map(|&end| &routed[std::mem::replace(&mut start, end)..end]);
        routes.push(RoutesStep { turn: step[0].turn, phase, step: step[0].step, tokens: 1, kept: 0 }, slices);
    }
    Ok(routes)
}

struct Row {
    turn: u32,
    decode: bool,
    step: u64,
    layer: u16,
    rank: u16,
    line: u32,
    routed: RoutedExpert,
}

impl Row {
    fn parse(text: &str, line: usize, layers: usize, experts: usize) -> Result<Self, CsvError> {
        let mut fields = [""; 9];
        let mut found = 0;
        for field in text.split(',') {
            if let Some(place) = fields.get_mut(found) {
                *place = field.trim();
            }
            found += 1;
        }
        if found != fields.len() {
            return Err(CsvError::Columns { line, found });
        }
        let number = |i: usize, column: &'static str, most: u64| {
            fields[i]
                .parse::<u64>()
                .ok()
                .filter(|n| *n <= most)
                .ok_or_else(|| value(line, column, &format!("not a number from 0 to {most}: {:?}", clip(fields[i]))))
        };
        let weight = fields[6].parse::<f32>().ok().filter(|w| w.is_finite());
        number(8, "expert_bytes", u64::MAX)?;
        Ok(Self {
            turn: number(0, "turn", u64::from(u32::MAX))? as u32,
            decode: number(1, "phase", 1)? == 1,
            step: number(2, "step", u64::MAX)?,
            layer: number(3, "layer", layers as u64 - 1)? as u16,
            rank: number(4, "slot", experts as u64 - 1)? as u16,
            line: u32::try_from(line).unwrap_or(u32::MAX),
            routed: RoutedExpert {
                expert: number(5, "expert", experts as u64 - 1)? as u16,
                tokens: 1,
                weight: weight.ok_or_else(|| value(line, "weight", &format!("not a finite number: {:?}", clip(fields[6]))))?,
                outcome: if number(7, "residency", u64::from(u32::MAX))? == 0 { Outcome::Miss } else { Outcome::Hit },
            },
        })
    }
}

fn value(line: usize, column: &'static str, problem: &str) -> CsvError {
    CsvError::Value { line, column, problem: problem.to_owned() }
}

fn clip(text: &str) -> String {
    text.chars().take(24).collect()
}
