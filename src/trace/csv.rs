//! `route_trace v1`: a CSV of expert routing, as the project BigMoeOnEdge publishes it.
//!
//! Lines with `#` describe the model (`model=`, `arch=`, `n_layer=`, `n_expert=`, `n_expert_used=`, and ours: `trunk_bytes=`) and
//! each layer (`layer=`, `expert_bytes=`, `dense_bytes=`). Then a header row and one row per routed expert:
//! `turn,phase,step,layer,slot,expert,weight,residency,expert_bytes`, with phase 0 for the prompt and 1 for generation;
//! `slot` is the rank within the chosen experts, not a slot of ours. Steps are single tokens.
//!
//! The reader trusts nothing: lines, ids and counts are checked, and an error names line and column.

use super::routes::{Routes, RoutesHead, RoutesStep, MAX_EXPERTS, MAX_LAYERS};
use crate::events::{Event, Outcome, Phase, RoutedExpert, StepRecord};
use std::io::{BufRead, Read, Write};

/// The first line.
pub const MAGIC: &str = "# route_trace v1";
/// The header row.
pub const HEADER: &str = "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes";
/// Longest line that is read.
const MAX_LINE: usize = 4096;
/// Most rows that are read.
const MAX_ROWS: usize = 16_000_000;

/// Why a CSV is no trace. Lines count from 1.
#[derive(Debug, thiserror::Error)]
pub enum CsvError {
    /// It could not be read.
    #[error("can't read the trace: {0}")]
    Io(#[from] std::io::Error),
    /// Something else.
    #[error("not a route_trace v1 file: it has to begin with {MAGIC:?}")]
    NotATrace,
    /// A line is too long or not text.
    #[error("line {line}: longer than {MAX_LINE} bytes or not UTF-8")]
    Line {
        /// Where.
        line: usize,
    },
    /// The header lacks something or promises too much.
    #[error("line {line}: header field `{field}` is {problem}")]
    Header {
        /// Where.
        line: usize,
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A row has a wrong number of columns.
    #[error("line {line}: {found} columns instead of 9 ({HEADER})")]
    Columns {
        /// Where.
        line: usize,
        /// How many there are.
        found: usize,
    },
    /// A value can't be.
    #[error("line {line}, column `{column}`: {problem}")]
    Value {
        /// Where.
        line: usize,
        /// Which column.
        column: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// More than can be taken.
    #[error("the trace has more than {MAX_ROWS} rows; cut it")]
    TooLong,
}

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
            "model" => head.model = clean(value),
            "arch" => head.arch = clean(value),
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
        routes.push(RoutesStep { turn: step[0].turn, phase, step: step[0].step, tokens: 1 }, slices);
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

/// Text of a file that may end up on a screen: no control characters, and not too much of it.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

fn clip(text: &str) -> String {
    text.chars().take(24).collect()
}

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
    let word = |s: &str| clean(s).split_whitespace().collect::<Vec<_>>().join("_");
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
    head: Option<RoutesHead>,
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
                self.head = Some(head);
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
        let step = RoutesStep { turn: self.turn, phase: record.phase, step: record.step, tokens: record.tokens };
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(rows: &str) -> String {
        format!("{MAGIC}\n# model=m arch=a n_layer=2 n_expert=4 n_expert_used=2\n# layer=0 expert_bytes=10 dense_bytes=7\n{HEADER}\n{rows}")
    }

    fn error(rows: &str) -> String {
        read(head(rows).as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn rows_become_steps_layers_and_experts() {
        let routes = read(head("0,0,0,0,0,3,0.75,0,10\n0,0,0,0,1,1,0.25,1,0\n0,1,1,1,0,2,1,1,0\n").as_bytes()).unwrap();
        assert_eq!((routes.len(), routes.routed()), (2, 3));
        assert_eq!(routes.tick(0, 0)[0], RoutedExpert { expert: 3, tokens: 1, weight: 0.75, outcome: Outcome::Miss });
        assert_eq!(routes.tick(0, 0)[1].outcome, Outcome::Hit);
        assert!(routes.tick(0, 1).is_empty() && routes.tick(1, 0).is_empty());
        assert_eq!(routes.tick(1, 1)[0].expert, 2);
        assert_eq!(routes.steps()[1].phase, Phase::Decode);
        assert_eq!((routes.expert_bytes(0), routes.expert_bytes(1)), (10, 0));
        assert_eq!(routes.head.dense_bytes, [7]);
    }

    #[test]
    fn a_prompt_may_come_layer_by_layer() {
        let by_layer = "0,0,0,0,0,3,1,0,10\n0,0,1,0,0,2,1,0,10\n0,0,0,1,0,1,1,0,10\n0,0,1,1,0,0,1,0,10\n";
        let by_step = "0,0,0,0,0,3,1,0,10\n0,0,0,1,0,1,1,0,10\n0,0,1,0,0,2,1,0,10\n0,0,1,1,0,0,1,0,10\n";
        assert_eq!(read(head(by_layer).as_bytes()).unwrap(), read(head(by_step).as_bytes()).unwrap());
    }

    #[test]
    fn what_was_written_reads_back_the_same() {
        let routes = read(head("0,0,0,0,0,3,0.75,0,10\n0,0,0,0,1,1,0.25,1,0\n1,1,1,1,0,2,0.1,1,0\n").as_bytes()).unwrap();
        let mut out = Vec::new();
        write(&mut out, &routes).unwrap();
        let again = read(&out[..]).unwrap();
        assert_eq!(again.steps(), routes.steps());
        for step in 0..2 {
            for layer in 0..2 {
                assert_eq!(again.tick(step, layer), routes.tick(step, layer));
            }
        }
    }

    #[test]
    fn errors_name_line_and_column() {
        for (rows, wanted) in [
            ("0,0,0,0,0,4,1,0,0\n", "line 5, column `expert`: not a number from 0 to 3: \"4\""),
            ("0,0,0,2,0,1,1,0,0\n", "line 5, column `layer`: not a number from 0 to 1: \"2\""),
            ("0,0,0,0,0,1,nan,0,0\n", "line 5, column `weight`: not a finite number: \"nan\""),
            ("0,2,0,0,0,1,1,0,0\n", "line 5, column `phase`: not a number from 0 to 1: \"2\""),
            ("0,0,0,0,0,1,1,0\n", "line 5: 8 columns instead of 9"),
            ("0,0,0,0,1,1,1,0,0\n", "line 5, column `slot`: the ranks of a layer in a step have to count from 0"),
            ("0,0,0,0,0,1,1,0,0\n0,0,0,0,1,1,1,0,0\n", "line 6, column `expert`: chosen twice"),
            ("0,0,0,0,0,1,1,0,0\n0,0,0,0,0,2,1,0,0\n", "line 6, column `slot`: the ranks"),
            ("-1,0,0,0,0,1,1,0,0\n", "line 5, column `turn`"),
        ] {
            let found = error(rows);
            assert!(found.starts_with(wanted), "{rows:?} gave {found}");
        }
        assert!(matches!(read(&b"turn,phase\n"[..]), Err(CsvError::NotATrace)));
        assert!(matches!(read(&b""[..]), Err(CsvError::NotATrace)));
        let wide = format!("{MAGIC}\n# n_layer=5000\n");
        assert!(read(wide.as_bytes()).unwrap_err().to_string().contains("n_layer"));
        let long = format!("{MAGIC}\n# {}\n", "x".repeat(MAX_LINE));
        assert!(matches!(read(long.as_bytes()), Err(CsvError::Line { line: 2 })));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes[..]);
            let _ = read(head(&String::from_utf8_lossy(&bytes)).as_bytes());
        }

        #[test]
        fn a_damaged_trace_is_read_or_refused(at in 0usize..200, byte in prop::sample::select(b"0129,.\n-#=x".to_vec())) {
            let mut bytes = head("0,0,0,0,0,3,0.75,0,10\n0,0,0,0,1,1,0.25,1,0\n0,1,1,1,0,2,1,1,0\n").into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(routes) = read(&bytes[..]) {
                for r in (0..routes.len()).flat_map(|s| (0..routes.head.layers).map(move |l| (s, l))).flat_map(|(s, l)| routes.tick(s, l)) {
                    prop_assert!(usize::from(r.expert) < routes.head.experts);
                }
            }
        }
    }
}
