//! Markdown to styled lines of a given width.
//!
//! CommonMark with tables, task lists and strikethrough is parsed by `pulldown-cmark`; here it is only laid
//! out. Every line starts with the prefix of the blocks that it lies in (quote bars, list indentation), so a
//! wrapped line hangs under its text. Code is cut at the width, never re-flowed. Links show their address
//! after the text, since a terminal shows no other way where they lead.
//!
//! Calls of tools are shown word for word, see `segments`.
//!
//! [`stable_end`] tells how much of a growing answer can be laid out once and for all.

mod layout;
mod segments;

pub use layout::render;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use segments::Scan;

/// Bytes at the start of `source` whose layout can't change whatever is appended: up to the last empty line
/// that is outside of code fences and tool calls and followed by a line that begins in the first column and is no list item.
#[must_use]
pub fn stable_end(source: &str) -> usize {
    let mut end = 0;
    let mut at = 0;
    let mut scan = Scan::default();
    let mut after_blank = false;
    for line in source.split_inclusive('\n') {
        let indent = line.len() - line.trim_start_matches(' ').len();
        let body = line.trim();
        let flush_left = indent == 0 && !line.starts_with('\t') && !body.is_empty();
        if scan.is_open() && after_blank && flush_left && !is_list_item(body) {
            end = at;
        }
        scan.line(line);
        after_blank = body.is_empty();
        at += line.len();
    }
    end
}

/// A line that is, or may become as it grows, another item of the list before it.
fn is_list_item(line: &str) -> bool {
    line.starts_with(|c: char| matches!(c, '-' | '*' | '+') || c.is_ascii_digit())
}

/// The code blocks of an answer in order, as (language, code): what `/copy N` takes.
#[must_use]
pub fn code_blocks(source: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for event in Parser::new_ext(source, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::CodeBlock(kind)) => {
                let language = match kind {
                    CodeBlockKind::Fenced(info) => info.split_whitespace().next().unwrap_or("").to_owned(),
                    CodeBlockKind::Indented => String::new(),
                };
                open = Some((language, String::new()));
            }
            Event::Text(text) => {
                if let Some((_, code)) = &mut open {
                    code.push_str(&text);
                }
            }
            Event::End(TagEnd::CodeBlock) => blocks.extend(open.take()),
            _ => {}
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::origin::Row;
    use crate::ui::palette::ColorDepth;
    use crate::ui::theme::Theme;
    use crate::ui::wrap::columns;
    use proptest::prelude::*;
    use ratatui::style::Modifier;

    fn theme() -> Theme {
        Theme::built_in("dark", ColorDepth::Indexed256, false)
    }

    fn shown(source: &str, width: usize) -> Vec<String> {
        render(source, 0, width, &theme()).iter().map(|r| r.line.to_string().trim_end().to_owned()).collect()
    }

    #[test]
    fn paragraphs_are_parted_by_one_empty_line() {
        assert_eq!(shown("one\ntwo\n\n\nthree", 40), ["one two", "", "three"]);
    }

    #[test]
    fn wrapped_list_items_hang_under_their_text() {
        assert_eq!(shown("- first item wraps\n- second\n  1. inner\n", 12), ["• first item", "  wraps", "• second", "  1. inner"]);
    }

    #[test]
    fn code_is_cut_and_never_flowed() {
        assert_eq!(shown("```rust\nfn main() {}\n\n  x\n```\nafter", 8), ["rust", "│ fn mai", "│ n() {}", "│", "│   x", "", "after"]);
    }

    #[test]
    fn tables_align_and_shrink_to_the_width() {
        let source = "| a | number |\n|---|---:|\n| wide cell here | 7 |\n";
        assert_eq!(shown(source, 40), ["a               number", "──────────────  ──────", "wide cell here       7"]);
        assert!(shown(source, 14).iter().all(|l| columns(l) <= 14));
    }

    #[test]
    fn a_link_shows_where_it_leads() {
        assert_eq!(shown("[here](https://x.org/)", 60), ["here (https://x.org/)"]);
        assert_eq!(shown("<https://x.org/>", 60), ["https://x.org/"]);
    }

    #[test]
    fn emphasis_becomes_modifiers() {
        let lines = render("a **b** *c*", 0, 40, &theme());
        let modifier = |i: usize| lines[0].line.spans[i].style.add_modifier;
        assert!(modifier(1).contains(Modifier::BOLD));
        assert!(modifier(3).contains(Modifier::ITALIC));
    }

    /// What is drawn for the bytes of `word` in `source`, and in which rows.
    fn drawn_of(source: &str, word: &str, width: usize) -> Vec<(usize, String)> {
        let (from, to) = (source.find(word).unwrap(), source.find(word).unwrap() + word.len());
        let mut out = Vec::new();
        for (y, row) in render(source, 0, width, &theme()).iter().enumerate() {
            let cells: Vec<char> = row.line.to_string().chars().collect();
            let text: String = row.origin.iter().flat_map(|run| run.columns_of(from, to)).map(|x| cells[x]).collect();
            if !text.is_empty() {
                out.push((y, text));
            }
        }
        out
    }

    #[test]
    fn every_word_is_found_again_however_it_is_laid_out() {
        let source = "# Head\n\nSome **bold** text with `code` &amp; an \\* and\nmore, [link](https://x.org/).\n\n- item one\n  1. inner\n\n> quoted\n\n\
                      ```rust\nfn main() {\n\tx();\n}\n```\n\n| a | num |\n|---|---:|\n| cell | 7 |\n\n<tool_call>\n{\"k\": 1}\n</tool_call>\n\nend";
        for width in [20, 40, 100] {
            for word in
                ["Head", "Some", "bold", "code", "more", "link", "one", "inner", "quoted", "main", "x()", "num", "cell", "\"k\"", "end"]
            {
                let drawn = drawn_of(source, word, width);
                assert_eq!(drawn.iter().map(|d| d.1.as_str()).collect::<String>(), word, "{word} in {width} columns: {drawn:?}");
            }
        }
        assert_eq!(drawn_of(source, "&amp;", 100)[0].1, "&");
        assert_eq!(drawn_of(source, "\\*", 100)[0].1, "*");
        assert!(drawn_of(source, "**", 100).is_empty(), "marks are not drawn");
    }

    #[test]
    fn the_stable_part_ends_before_the_open_block() {
        assert_eq!(stable_end("one\n\ntwo"), 5);
        assert_eq!(stable_end("one\n\n"), 0);
        assert_eq!(stable_end("- a\n\n  b"), 0);
        let open = "x\n\n```\ncode\n\nmore";
        assert_eq!(stable_end(open), 3);
        assert_eq!(stable_end("```\na\n\nb\n```\n\nend"), 14);
    }

    #[test]
    fn code_blocks_are_found_in_order() {
        let blocks = code_blocks("a\n```py\nx = 1\n```\nb\n\n    indented\n");
        assert_eq!(blocks, [("py".into(), "x = 1\n".into()), (String::new(), "indented\n".into())]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_line_is_wider_than_asked(source in "[-a-z0-9 #>*_`|~\\[\\]()!\n你👍🏽\u{1b}]{0,160}", width in 1usize..50) {
            for row in render(&source, 0, width, &theme()) {
                prop_assert!(row.line.width() <= width, "{:?} at {}", row, width);
                prop_assert!(row.origin.iter().all(|r| r.column + r.columns <= width && r.source + r.bytes <= source.len()), "{row:?}");
            }
        }

        #[test]
        fn laying_out_the_stable_part_alone_changes_nothing(
            blocks in proptest::collection::vec("[a-z]{1,12}( [a-z]{1,9}){0,5}|# [a-z]{3}|> [a-z ]{3,30}|```\n[a-z]{0,5}\n\n[a-z]{1,5}\n```|1\\. [a-z]{2}", 1..8),
        ) {
            let source = blocks.join("\n\n");
            let cut = stable_end(&source);
            let mut joined = render(&source[..cut], 0, 20, &theme());
            let open = render(&source[cut..], cut, 20, &theme());
            if !joined.is_empty() && !open.is_empty() {
                joined.push(Row::default());
            }
            joined.extend(open);
            let plain = |rows: Vec<Row>| rows.iter().map(|r| (r.line.to_string().trim_end().to_owned(), r.origin.clone())).collect::<Vec<_>>();
            prop_assert_eq!(plain(joined), plain(render(&source, 0, 20, &theme())));
        }
    }
}
