//! The one table of keys and commands. The program looks keys up in it, the help screen shows it, and
//! `docs/keys.md` is written from it.

use super::inspector::Move;
use super::terms;
use super::tint::Tint;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::fmt::Write;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the input, or run it if it is a command.
    Send,
    /// Break the line.
    Newline,
    /// Esc: close what is open, cancel the answer, leave the pane; twice edits the previous prompt.
    Escape,
    /// Ctrl-C: cancel the answer, empty the input; twice on an empty input quits.
    Interrupt,
    /// Ctrl-D: quit on an empty input, else scroll down half a page.
    EndOfInput,
    /// Draw everything anew.
    Redraw,
    /// Stop the program as the shell's job control does.
    Suspend,
    /// Edit the input in an editor.
    Editor,
    /// Answer the last prompt again.
    Regenerate,
    /// Show or hide the help.
    Help,
    /// Pick a command from a list.
    Palette,
    /// Search the history of inputs.
    SearchHistory,
    /// Focus the next pane (or complete a command).
    NextPane,
    /// Focus the previous pane.
    PreviousPane,
    /// Focus a pane: 0 chat, 1 heatmap, 2 memory.
    Pane(u8),
    /// Scroll the chat a page up.
    PageUp,
    /// Scroll the chat a page down.
    PageDown,
    /// Scroll the chat half a page up.
    HalfUp,
    /// Show the start of the chat.
    Start,
    /// Show the end of the chat, and follow it.
    End,
    /// Show the previous prompt.
    PreviousPrompt,
    /// Show the next prompt.
    NextPrompt,
    /// Open or fold the last thinking block.
    Thinking,
    /// Move the token cursor; the heatmap pauses at the token's step.
    Token(Move),
    /// The heatmap shows the latest step again.
    Live,
    /// Tint the chat's tokens by the next thing.
    NextTint,
    /// Change the slots per layer by this many.
    Slots(i16),
    /// Move in the input.
    Left,
    /// Move in the input.
    Right,
    /// Move in the input.
    WordLeft,
    /// Move in the input.
    WordRight,
    /// A row up, or back in the history.
    Up,
    /// A row down, or forward in the history.
    Down,
    /// Start of the line.
    Home,
    /// End of the line.
    LineEnd,
    /// Delete backwards.
    Backspace,
    /// Delete forwards.
    Delete,
    /// Delete the word before.
    DeleteWord,
    /// Delete to the end of the line.
    DeleteToEnd,
    /// Hold the answer, or let it go on.
    Hold,
    /// One more token of the held answer.
    LetOne,
    /// The pane with the keyboard gets the whole screen, or gives it back.
    Whole,
    /// Replay: leave.
    Leave,
    /// Replay: stop or go on.
    PlayPause,
    /// Replay: play in the other direction.
    PlayTurn,
    /// Replay: this many steps on, or back.
    PlayStep(i8),
    /// Replay: twice as fast, or half.
    PlayFaster(bool),
}

/// Where a key works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everywhere.
    Everywhere,
    /// While the chat has focus.
    Chat,
    /// While the heatmap or the memory pane has focus.
    Panes,
    /// While a recorded trace is played.
    Replay,
}

impl Scope {
    /// All scopes, in the order of the help.
    pub const ALL: [Self; 4] = [Self::Chat, Self::Everywhere, Self::Panes, Self::Replay];

    /// Its heading.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Everywhere => "Everywhere",
            Self::Chat => "Typing",
            Self::Panes => "Heatmap or memory pane in focus",
            Self::Replay => "Playing a recorded trace, while nothing is typed",
        }
    }
}

/// One line of the table.
#[derive(Debug)]
pub struct Binding {
    /// Where it works.
    pub scope: Scope,
    /// The keys, any of them.
    pub keys: &'static [(KeyModifiers, KeyCode)],
    /// The keys as words.
    pub shown: &'static str,
    /// What it does.
    pub action: Action,
    /// What it does, in words; an empty text joins the line above.
    pub help: &'static str,
}

const NONE: KeyModifiers = KeyModifiers::NONE;
const CTRL: KeyModifiers = KeyModifiers::CONTROL;
const ALT: KeyModifiers = KeyModifiers::ALT;
const SHIFT: KeyModifiers = KeyModifiers::SHIFT;

macro_rules! keys {
    ($($scope:ident { $([$(($m:expr, $k:expr)),* $(,)?] $shown:literal $action:expr, $help:literal;)+ })+) => {
        /// All keys.
        pub static KEYS: &[Binding] = &[$($(Binding {
            scope: Scope::$scope,
            keys: &[$(($m, $k)),*],
            shown: $shown,
            action: $action,
            help: $help,
        },)+)+];
    };
}

use KeyCode::Char;
keys! {
    Chat {
        [(NONE, KeyCode::Enter)] "Enter" Action::Send, "send the message, or run the /command";
        [(ALT, KeyCode::Enter), (SHIFT, KeyCode::Enter), (CTRL, Char('j'))] "Alt-Enter, Ctrl-J" Action::Newline, "new line";
        [(NONE, KeyCode::Up)] "Up" Action::Up, "line up; on the first line, the previous input";
        [(NONE, KeyCode::Down)] "Down" Action::Down, "line down; on the last line, the next input";
        [(CTRL, Char('r'))] "Ctrl-R" Action::SearchHistory, "search earlier inputs; again for older ones";
        [(CTRL, Char('g'))] "Ctrl-G" Action::Editor, "edit the input in $VISUAL or $EDITOR";
        [(NONE, KeyCode::Left)] "Left" Action::Left, "move";
        [(NONE, KeyCode::Right)] "Right" Action::Right, "move";
        [(ALT, KeyCode::Left), (CTRL, KeyCode::Left), (ALT, Char('b'))] "Alt-Left, Ctrl-Left" Action::WordLeft, "move by words";
        [(ALT, KeyCode::Right), (CTRL, KeyCode::Right), (ALT, Char('f'))] "Alt-Right, Ctrl-Right" Action::WordRight, "move by words";
        [(NONE, KeyCode::Home), (CTRL, Char('a'))] "Home" Action::Home, "start of the line";
        [(NONE, KeyCode::End), (CTRL, Char('e'))] "End, Ctrl-E" Action::LineEnd, "end of the line";
        [(NONE, KeyCode::Backspace), (CTRL, Char('h'))] "Backspace" Action::Backspace, "delete";
        [(NONE, KeyCode::Delete)] "Delete" Action::Delete, "delete forwards";
        [(CTRL, Char('w')), (ALT, KeyCode::Backspace)] "Ctrl-W, Alt-Backspace" Action::DeleteWord, "delete a word";
        [(CTRL, Char('k'))] "Ctrl-K" Action::DeleteToEnd, "delete to the end of the line";
    }
    Everywhere {
        [(NONE, KeyCode::Esc)] "Esc" Action::Escape, "cancel; close; to the chat; twice: edit last prompt";
        [(CTRL, Char('c'))] "Ctrl-C" Action::Interrupt, "cancel; empty the input; twice when empty: quit";
        [(CTRL, Char('d'))] "Ctrl-D" Action::EndOfInput, "quit on an empty input, else half a page down";
        [(CTRL, Char('y'))] "Ctrl-Y" Action::Regenerate, "answer the last prompt again";
        [(NONE, KeyCode::F(1))] "? or F1" Action::Help, "this help (? on an empty input); / finds in it";
        [(CTRL, Char('p'))] "Ctrl-P" Action::Palette, "list of all commands and keys; type to find";
        [(NONE, KeyCode::PageUp)] "PgUp" Action::PageUp, "chat a page up";
        [(NONE, KeyCode::PageDown)] "PgDn" Action::PageDown, "chat a page down";
        [(CTRL, Char('u'))] "Ctrl-U" Action::HalfUp, "chat half a page up; in a line, delete to its start";
        [(CTRL, KeyCode::Home), (ALT, Char('<'))] "Ctrl-Home, Alt-<" Action::Start, "start of the chat";
        [(CTRL, KeyCode::End), (ALT, Char('>'))] "Ctrl-End, Alt->" Action::End, "end of the chat, and follow it";
        [(ALT, KeyCode::Up)] "Alt-Up" Action::PreviousPrompt, "previous prompt in the chat";
        [(ALT, KeyCode::Down)] "Alt-Down" Action::NextPrompt, "next prompt in the chat";
        [(CTRL, Char('t'))] "Ctrl-T" Action::Thinking, "open or fold the last thinking block";
        [(ALT, Char('h')), (ALT, Char(','))] "Alt-h, Alt-," Action::Token(Move::Tokens(-1)), "token before: the heatmap pauses at its step";
        [(ALT, Char('l')), (ALT, Char('.'))] "Alt-l, Alt-." Action::Token(Move::Tokens(1)), "next token";
        [(ALT, Char('k'))] "Alt-k" Action::Token(Move::Row(false)), "token in the row above";
        [(ALT, Char('j'))] "Alt-j" Action::Token(Move::Row(true)), "token in the row below";
        [(ALT, Char('0'))] "Alt-0" Action::Live, "back to live: the heatmap follows the latest step";
        [(ALT, Char('t'))] "Alt-t" Action::NextTint, "tint tokens by misses, time, entropy, nothing";
        [(NONE, KeyCode::Tab)] "Tab" Action::NextPane, "next pane; completes a /command";
        [(SHIFT, KeyCode::BackTab), (NONE, KeyCode::BackTab)] "Shift-Tab" Action::PreviousPane, "previous pane";
        [(ALT, Char('1'))] "Alt-1" Action::Pane(0), "chat";
        [(ALT, Char('2'))] "Alt-2" Action::Pane(1), "expert heatmap";
        [(ALT, Char('3'))] "Alt-3" Action::Pane(2), "memory";
        [(ALT, Char('+')), (ALT, Char('='))] "Alt-+" Action::Slots(1), "one slot per layer more";
        [(ALT, Char('-')), (ALT, Char('_'))] "Alt--" Action::Slots(-1), "one slot per layer less";
        [(ALT, Char('z'))] "Alt-z" Action::Whole, "the pane with the keys on the whole screen, and back";
        [(ALT, Char('p'))] "Alt-p" Action::Hold, "hold the answer, or let it go on";
        [(ALT, Char('n'))] "Alt-n" Action::LetOne, "hold the answer; then one token more each time";
        [(CTRL, Char('l'))] "Ctrl-L" Action::Redraw, "draw the screen anew";
        [(CTRL, Char('z'))] "Ctrl-Z" Action::Suspend, "suspend (fg comes back); the answer stands still";
    }
    Panes {
        [(NONE, Char('+')), (NONE, Char('='))] "+" Action::Slots(1), "one slot per layer more";
        [(NONE, Char('-')), (NONE, Char('_'))] "-" Action::Slots(-1), "one slot per layer less";
        [(NONE, Char(']'))] "]" Action::Slots(8), "eight more";
        [(NONE, Char('['))] "[" Action::Slots(-8), "eight less";
        [(NONE, Char(' '))] "Space" Action::Hold, "hold the answer, or let it go on";
        [(NONE, Char('.'))] "." Action::LetOne, "hold the answer; then one token more each time";
        [(NONE, Char('z'))] "z" Action::Whole, "this pane on the whole screen, and back";
        [(NONE, Char('i'))] "i, free letters" Action::Pane(0), "back to the input, with the letter unless it is i";
    }
    Replay {
        [(NONE, Char(' '))] "Space" Action::PlayPause, "stop, or go on";
        [(NONE, Char(';'))] ";" Action::PlayTurn, "play backwards, or forwards again";
        [(NONE, Char('.'))] "." Action::PlayStep(1), "one step on";
        [(NONE, Char(','))] "," Action::PlayStep(-1), "one step back";
        [(NONE, Char('>'))] ">" Action::PlayFaster(true), "twice as fast";
        [(NONE, Char('<'))] "<" Action::PlayFaster(false), "half as fast";
        [(NONE, Char('q'))] "q" Action::Leave, "leave";
    }
}

/// What a command is followed by, for its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing.
    Nothing,
    /// One of these words.
    Words(&'static [&'static str]),
    /// The name of a theme.
    Theme,
    /// Anything.
    Text,
}

/// One slash command.
#[derive(Debug)]
pub struct SlashCommand {
    /// Its name, without the slash.
    pub name: &'static str,
    /// What follows, in words.
    pub arguments: &'static str,
    /// What it does.
    pub help: &'static str,
    /// For its completion.
    pub takes: Takes,
}

/// Names that `/set` knows.
pub const PARAMETERS: &[&str] = &["temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "seed", "max_tokens"];

macro_rules! commands {
    ($($name:literal $arguments:literal $takes:expr, $help:literal;)+) => {
        /// All slash commands, in the order of the list.
        pub static COMMANDS: &[SlashCommand] = &[$(SlashCommand {
            name: $name,
            arguments: $arguments,
            help: $help,
            takes: $takes,
        },)+];
    };
}

commands! {
    "help" "" Takes::Nothing, "keys and commands";
    "new" "" Takes::Nothing, "start a new chat; the old one is saved";
    "resume" "" Takes::Nothing, "list the saved chats and take one up again";
    "regen" "" Takes::Nothing, "answer the last prompt again";
    "edit" "" Takes::Nothing, "edit the previous prompt and go on from there";
    "copy" "[N | all]" Takes::Text, "last answer, its Nth code block, or all (OSC 52)";
    "save" "PATH" Takes::Text, "write the chat as Markdown to a file";
    "record" "FILE | off" Takes::Text, "keep text, routing and times from now on";
    "slots" "N | auto | spread | off" Takes::Text, "a count; auto [SIZE]; spread: by layer; off: neither";
    "policy" "[NAME]" Takes::Words(&["rotary", "decay", "lru", "lfu"]), "how experts get and lose slots; without name: tell";
    "pace" "[N | off]" Takes::Words(&["off"]), "tokens per second at most, to watch them come";
    "draft" "auto | always | never" Takes::Words(&["auto", "always", "never"]), "read likely tokens along, where it pays";
    "tint" "off | misses | time | entropy" Takes::Words(&Tint::NAMES), "tint the tokens of the chat by what they cost";
    "set" "[NAME VALUE]" Takes::Words(PARAMETERS), "a sampling parameter; without value: show all";
    "system" "[TEXT | off]" Takes::Text, "the standing instruction; without text: show it";
    "think" "on | off | auto" Takes::Words(&["on", "off", "auto"]), "whether the model reasons before it answers";
    "effort" "low | medium | high | auto" Takes::Words(&["low", "medium", "high", "auto"]), "how long a model like gpt-oss reasons";
    "model" "PATH | demo" Takes::Text, "open another model";
    "theme" "[NAME]" Takes::Theme, "change the colours; without name: list them";
    "ascii" "on | off" Takes::Words(&["on", "off"]), "draw with plain ASCII";
    "quit" "" Takes::Nothing, "leave; the chat is saved";
}

/// Everything that the help shows: headings, each with its keys and what they do.
#[must_use]
pub fn sections() -> Vec<(&'static str, Vec<(&'static str, &'static str)>)> {
    let of = |scope: Scope| KEYS.iter().filter(move |b| b.scope == scope).map(|b| (b.shown, b.help)).collect();
    let mut sections: Vec<_> = Scope::ALL.iter().map(|&scope| (scope.title(), of(scope))).collect();
    sections.push(("Heatmap in focus", super::heatmap::KEYS.to_vec()));
    sections.push(("Memory pane in focus", super::memory::KEYS.to_vec()));
    sections
}

/// What the keys do that makes sense without the key: for the list of everything that can be done.
pub fn to_pick() -> impl Iterator<Item = &'static Binding> {
    let of_the_key = |action| {
        use Action::{EndOfInput, Escape, HalfUp, Help, Interrupt, Palette};
        matches!(action, Escape | Interrupt | EndOfInput | HalfUp | Palette | Help)
    };
    let shown = |scope| matches!(scope, Scope::Everywhere | Scope::Panes);
    let mut seen = Vec::new();
    KEYS.iter().filter(move |b| {
        // What works everywhere comes first; the panes have shorter keys for some of it.
        let new = shown(b.scope) && !of_the_key(b.action) && !seen.contains(&b.action);
        if new {
            seen.push(b.action);
        }
        new
    })
}

/// The action of a key in a scope; [`Scope::Everywhere`] is not looked through by itself.
fn find(scope: Scope, key: KeyEvent) -> Option<Action> {
    // Terminals differ in whether they report Shift with a character that only Shift gives.
    let shift = if matches!(key.code, Char(_)) { SHIFT } else { NONE };
    let modifiers = key.modifiers.difference(shift);
    let code = match key.code {
        Char(c) if modifiers.contains(CTRL) => Char(c.to_ascii_lowercase()),
        code => code,
    };
    let same = |&(m, c): &(KeyModifiers, KeyCode)| m == modifiers && c == code;
    KEYS.iter().find(|b| b.scope == scope && b.keys.iter().any(same)).map(|b| b.action)
}

/// The action of a key for the first of `scopes` that knows it.
#[must_use]
pub fn action(scopes: &[Scope], key: KeyEvent) -> Option<Action> {
    scopes.iter().find_map(|&scope| find(scope, key))
}

/// `docs/keys.md`.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(
        "# Keys, commands, and the words on the screen\n\nWritten from the tables in `src/ui/keys.rs` and `src/ui/terms.rs` by `ROTARY_WRITE_DOCS=1 cargo test --lib ui::keys`; \
         the same tables are shown by `?` in the app.\n",
    );
    for (heading, keys) in sections() {
        let _ = write!(out, "\n## {heading}\n\n| key | what it does |\n|---|---|\n");
        for (key, help) in keys {
            let _ = writeln!(out, "| {} | {help} |", key.replace('|', "\\|"));
        }
    }
    out.push_str("\n## Commands\n\nTyped into the input; Tab completes them.\n\n| command | what it does |\n|---|---|\n");
    for command in COMMANDS {
        let line = format!("/{} {}", command.name, command.arguments);
        let _ = writeln!(out, "| `{}` | {} |", line.trim_end().replace('|', "\\|"), command.help);
    }
    let parameters: Vec<String> = PARAMETERS.iter().map(|p| format!("`{p}`")).collect();
    let _ = write!(out, "\nParameters of `/set`: {}.\n", parameters.join(", "));
    for (heading, terms) in terms::SECTIONS {
        let _ = write!(out, "\n## {heading}\n\n| word | what it means |\n|---|---|\n");
        for (word, meaning) in terms {
            let _ = writeln!(out, "| {word} | {meaning} |");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_in_step_with_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/keys.md");
        if std::env::var_os("ROTARY_WRITE_DOCS").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
            std::fs::write(path, markdown()).unwrap();
        }
        let on_disk = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(on_disk, markdown(), "run ROTARY_WRITE_DOCS=1 cargo test --lib ui::keys");
    }

    #[test]
    fn every_line_of_help_fits_80_columns() {
        for help in KEYS.iter().map(|b| b.help).chain(COMMANDS.iter().map(|c| c.help)) {
            assert!(help.len() <= 54, "{help}");
        }
    }

    #[test]
    fn no_key_means_two_things_at_once() {
        let together = [&[Scope::Everywhere, Scope::Chat][..], &[Scope::Everywhere, Scope::Panes]];
        for scopes in together {
            let mut seen = Vec::new();
            for binding in KEYS.iter().filter(|b| scopes.contains(&b.scope)) {
                for key in binding.keys {
                    assert!(!seen.contains(key), "{key:?} twice in {scopes:?}");
                    seen.push(*key);
                }
            }
        }
    }

    #[test]
    fn shift_reported_with_a_character_changes_nothing() {
        let plus = KeyEvent::new(Char('+'), SHIFT);
        assert_eq!(action(&[Scope::Panes], plus), Some(Action::Slots(1)));
        let ctrl_shift_c = KeyEvent::new(Char('C'), CTRL | SHIFT);
        assert_eq!(action(&[Scope::Everywhere], ctrl_shift_c), Some(Action::Interrupt));
        let shift_enter = KeyEvent::new(KeyCode::Enter, SHIFT);
        assert_eq!(action(&[Scope::Chat], shift_enter), Some(Action::Newline));
    }

    #[test]
    fn keys_that_multiplexers_take_are_never_the_only_way() {
        let taken = [(CTRL, Char('b')), (CTRL, Char('a')), (CTRL, Char('s')), (CTRL, Char('q'))];
        for binding in KEYS.iter().filter(|b| !b.keys.is_empty()) {
            assert!(binding.keys.iter().any(|k| !taken.contains(k)), "{}", binding.shown);
        }
    }
}
