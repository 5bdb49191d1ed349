//! `route_trace v1`: a CSV of expert routing, as the project BigMoeOnEdge publishes it.
//!
//! Lines with `#` describe the model (`model=`, `arch=`, `n_layer=`, `n_expert=`, `n_expert_used=`, and ours: `trunk_bytes=`) and
//! each layer (`layer=`, `expert_bytes=`, `dense_bytes=`). Then a header row and one row per routed expert:
//! `turn,phase,step,layer,slot,expert,weight,residency,expert_bytes`, with phase 0 for the prompt and 1 for generation;
//! `slot` is the rank within the chosen experts, not a slot of ours. Steps are single tokens.

mod read;
mod write;

pub use read::read;
pub use write::{write, Writer};

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

/// Most characters of a model's name or architecture.
const MAX_NAME: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Outcome, Phase, RoutedExpert};
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
