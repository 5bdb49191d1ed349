//! Slash commands: from a line of input to what it asks for.

use super::keys::{Takes, COMMANDS, PARAMETERS};
use super::memory_state::auto::Target;
use super::tempo;
use super::tint::Tint;
use crate::config::parse_bytes;
use crate::events::{Effort, ModelSource, Sampling, When};
use std::path::PathBuf;

/// What to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// The last answer.
    Answer,
    /// Its Nth code block, from 1.
    Block(usize),
    /// The whole chat.
    All,
}

/// A command that was understood.
#[derive(Clone, Debug, PartialEq)]
pub enum Slash {
    /// Keys and commands.
    Help,
    /// A new chat.
    New,
    /// The list of chats.
    Resume,
    /// Answer again.
    Regenerate,
    /// Edit the previous prompt.
    Edit,
    /// To the clipboard.
    Copy(Copied),
    /// To a file.
    Save(PathBuf),
    /// Record into a file; `None` ends it.
    Record(Option<PathBuf>),
    /// Slots per layer.
    Slots(usize),
    /// Slots that turn themselves; `None` is no longer.
    SlotsAuto(Option<Target>),
    /// Slots by layer, or equal ones.
    SlotsSpread(bool),
    /// Slots that neither turn themselves nor differ by layer.
    SlotsPlain,
    /// Show the pace of answers.
    ShowPace,
    /// Tokens per second of answers at most; 0 as fast as they can be.
    Pace(f32),
    /// When likely tokens are read along.
    Draft(When),
    /// Show the replacement policy.
    ShowPolicy,
    /// Replacement policy.
    Policy(String),
    /// Show all sampling parameters.
    ShowSampling,
    /// Set one: its name and value.
    Set(String, String),
    /// Show the standing instruction.
    ShowSystem,
    /// The standing instruction; `None` removes it.
    System(Option<String>),
    /// Reasoning.
    Think(Option<bool>),
    /// How long the model reasons.
    Effort(Option<Effort>),
    /// Open a model.
    Model(ModelSource),
    /// List the themes.
    ListThemes,
    /// Change the theme.
    Theme(String),
    /// Plain ASCII.
    Ascii(bool),
    /// Tint the chat's tokens.
    Tint(Tint),
    /// Leave.
    Quit,
}

/// Reads a line that begins with a slash.
///
/// # Errors
/// A sentence for the person: what is wrong, and how it is written.
pub fn parse(line: &str) -> Result<Slash, String> {
    let line = line.trim();
    let rest = line.strip_prefix('/').unwrap_or(line);
    let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let argument = argument.trim();
    let usage = || {
        let known = COMMANDS.iter().find(|c| c.name == name);
        known.map_or_else(String::new, |c| format!("write /{} {}", c.name, c.arguments))
    };
    let number = || argument.parse::<usize>().map_err(|_| format!("\"{argument}\" is not a number; {}", usage()));
    let takes_nothing = COMMANDS.iter().any(|c| c.name == name && c.takes == Takes::Nothing);
    if takes_nothing && !argument.is_empty() {
        return Err(format!("/{name} stands alone, without \"{}\"", crate::text::one_line(argument, 40)));
    }
    Ok(match name {
        "help" | "?" => Slash::Help,
        "new" | "clear" => Slash::New,
        "resume" => Slash::Resume,
        "regen" => Slash::Regenerate,
        "edit" => Slash::Edit,
        "copy" => Slash::Copy(match argument {
            "" => Copied::Answer,
            "all" => Copied::All,
            _ => Copied::Block(number()?),
        }),
        "save" if argument.is_empty() => return Err(usage()),
        "save" => Slash::Save(home(argument)),
        "record" => match argument {
            "" => return Err(usage()),
            "off" => Slash::Record(None),
            path => Slash::Record(Some(home(path))),
        },
        "slots" => match argument.split_once(char::is_whitespace).map_or((argument, ""), |(a, b)| (a, b.trim())) {
            ("auto", "" | "knee") => Slash::SlotsAuto(Some(Target::Knee)),
            ("auto", "off") => Slash::SlotsAuto(None),
            ("off", "") => Slash::SlotsPlain,
            ("spread", "" | "on") => Slash::SlotsSpread(true),
            ("spread", "off") | ("equal", "") => Slash::SlotsSpread(false),
            ("auto", size) => Slash::SlotsAuto(Some(Target::Bytes(parse_bytes(size)?))),
            _ => Slash::Slots(number()?),
        },
        "policy" => match argument {
            "" => Slash::ShowPolicy,
            "rotary" | "decay" | "lru" | "lfu" => Slash::Policy(argument.to_owned()),
            _ => return Err(format!("the policies are rotary, decay, lru and lfu; {}", usage())),
        },
        "set" => match argument.split_once(|c: char| c.is_whitespace() || c == '=') {
            None if argument.is_empty() => Slash::ShowSampling,
            None => return Err(format!("a value is missing; {}", usage())),
            Some((name, value)) => Slash::Set(name.to_owned(), value.trim().to_owned()),
        },
        "system" => match argument {
            "" => Slash::ShowSystem,
            "off" => Slash::System(None),
            text => Slash::System(Some(text.to_owned())),
        },
        "think" => Slash::Think(match argument {
            "on" => Some(true),
            "off" => Some(false),
            "auto" => None,
            _ => return Err(usage()),
        }),
        "effort" => Slash::Effort(match argument {
            "auto" => None,
            name => Some(Effort::from_name(name).ok_or_else(usage)?),
        }),
        "model" => match argument {
            "" => return Err(usage()),
            "demo" => Slash::Model(ModelSource::Demo),
            path => Slash::Model(ModelSource::Path(home(path))),
        },
        "theme" if argument.is_empty() => Slash::ListThemes,
        "theme" => Slash::Theme(argument.to_owned()),
        "ascii" => match argument {
            "on" => Slash::Ascii(true),
            "off" => Slash::Ascii(false),
            _ => return Err(usage()),
        },
        "pace" if argument.is_empty() => Slash::ShowPace,
        "pace" => Slash::Pace(tempo::parse(argument).ok_or_else(|| format!("{}; {}", tempo::meaning(), usage()))?),
        "draft" => Slash::Draft(When::from_name(argument).ok_or_else(usage)?),
        "tint" => Slash::Tint(Tint::parse(argument).ok_or_else(usage)?),
        "quit" | "exit" | "q" => Slash::Quit,
        _ => {
            let close = COMMANDS.iter().find(|c| !name.is_empty() && c.name.starts_with(&name[..first_len(name)]));
            let hint = close.map_or_else(String::new, |c| format!(" (did you mean /{}?)", c.name));
            return Err(format!("there is no command /{name}{hint}; ? lists them"));
        }
    })
}

fn first_len(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}

/// A path with `~/` resolved.
fn home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), etcetera::home_dir()) {
        (Some(rest), Ok(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

/// Sets one sampling parameter.
///
/// # Errors
/// A sentence that names the parameter and what it takes.
pub fn set_sampling(sampling: &mut Sampling, name: &str, value: &str) -> Result<(), String> {
    let float = |low: f32, high: f32| match value.parse::<f32>() {
        Ok(v) if v >= low && v <= high => Ok(v),
        _ => Err(format!("{name} is a number from {low} to {high}, not \"{value}\"")),
    };
    let count = || value.parse::<usize>().map_err(|_| format!("{name} is a whole number, not \"{value}\""));
    match name {
        "temperature" => sampling.temperature = float(0.0, 10.0)?,
        "top_k" => sampling.top_k = count()?,
        "top_p" => sampling.top_p = float(0.0, 1.0)?,
        "min_p" => sampling.min_p = float(0.0, 1.0)?,
        "repetition_penalty" => sampling.repetition_penalty = float(0.1, 10.0)?,
        "presence_penalty" => sampling.presence_penalty = float(-10.0, 10.0)?,
        "seed" if value == "none" || value == "random" => sampling.seed = None,
        "seed" => {
            let seed = value.parse().map_err(|_| format!("seed is a whole number or none, not \"{value}\""))?;
            sampling.seed = Some(seed);
        }
        "max_tokens" => sampling.max_tokens = count()?,
        _ => return Err(format!("there is no parameter \"{name}\"; they are {}", PARAMETERS.join(", "))),
    }
    Ok(())
}

/// All sampling parameters in one line.
#[must_use]
pub fn describe(s: &Sampling) -> String {
    let seed = s.seed.map_or_else(|| "none".to_owned(), |s| s.to_string());
    format!(
        "temperature {}, top_k {}, top_p {}, min_p {}, repetition_penalty {}, presence_penalty {}, seed {seed}, max_tokens {}",
        s.temperature, s.top_k, s.top_p, s.min_p, s.repetition_penalty, s.presence_penalty, s.max_tokens
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_table_is_understood() {
        for command in COMMANDS {
            let argument = match command.name {
                "copy" | "slots" => "2",
                "save" | "model" => "some/path",
                "policy" => "lru",
                "draft" => "never",
                "record" => "some.rotary",
                "tint" => "misses",
                "set" => "top_k 5",
                "think" | "ascii" => "on",
                "effort" => "high",
                "theme" => "dark",
                "system" => "be brief",
                _ => "",
            };
            let line = format!("/{} {argument}", command.name);
            assert!(parse(&line).is_ok(), "{line}: {:?}", parse(&line));
        }
    }

    #[test]
    fn slots_take_a_number_a_budget_or_the_knee() {
        assert_eq!(parse("/slots 12"), Ok(Slash::Slots(12)));
        assert_eq!(parse("/slots auto"), Ok(Slash::SlotsAuto(Some(Target::Knee))));
        assert_eq!(parse("/slots auto 4GiB"), Ok(Slash::SlotsAuto(Some(Target::Bytes(4 << 30)))));
        assert_eq!(parse("/slots auto 512 MiB"), Ok(Slash::SlotsAuto(Some(Target::Bytes(512 << 20)))));
        assert_eq!(parse("/slots auto off"), Ok(Slash::SlotsAuto(None)));
        assert_eq!(parse("/slots spread on"), Ok(Slash::SlotsSpread(true)));
        assert_eq!(parse("/slots spread off"), Ok(Slash::SlotsSpread(false)));
        assert!(parse("/slots auto lots").unwrap_err().contains("8GiB"));
    }

    #[test]
    fn every_parameter_can_be_set_and_is_described() {
        let mut sampling = Sampling::default();
        for name in PARAMETERS {
            set_sampling(&mut sampling, name, "1").unwrap();
            assert!(describe(&sampling).contains(&format!("{name} 1")));
        }
    }

    #[test]
    fn mistakes_say_what_is_expected() {
        assert!(parse("/sloots 3").unwrap_err().contains("/save") || parse("/sloots 3").unwrap_err().contains("/slots"));
        assert!(parse("/slots many").unwrap_err().contains("/slots N | auto"));
        assert!(parse("/").unwrap_err().contains("no command"));
        assert!(parse("/é").unwrap_err().contains("no command"));
        let mut s = Sampling::default();
        assert!(set_sampling(&mut s, "temperature", "NaN").unwrap_err().contains("0 to 10"));
        assert!(set_sampling(&mut s, "heat", "1").unwrap_err().contains("temperature"));
        assert_eq!(s, Sampling::default());
    }

    #[test]
    fn without_an_argument_nothing_is_changed() {
        assert_eq!(parse("/system"), Ok(Slash::ShowSystem));
        assert_eq!(parse("/system off"), Ok(Slash::System(None)));
        assert_eq!(parse("/system be brief"), Ok(Slash::System(Some("be brief".into()))));
        assert_eq!(parse("/policy"), Ok(Slash::ShowPolicy));
    }

    #[test]
    fn the_effort_is_one_of_three_or_the_models_own() {
        assert_eq!(parse("/effort low"), Ok(Slash::Effort(Some(Effort::Low))));
        assert_eq!(parse("/effort auto"), Ok(Slash::Effort(None)));
        for wrong in ["/effort", "/effort much"] {
            assert_eq!(parse(wrong), Err("write /effort low | medium | high | auto".into()));
        }
    }

    #[test]
    fn values_may_follow_an_equals_sign() {
        assert_eq!(parse("/set top_p=0.5"), Ok(Slash::Set("top_p".into(), "0.5".into())));
    }
}
