//! `rotary chats`: the saved chats, and whether one is among them.

use super::Failure;
use crate::config::Folders;
use crate::text::{nearest, one_line};
use crate::ui::session::{ChatStore, SessionError};
use clap::Args;
use color_eyre::eyre;
use std::io::{self, Write};
use std::process::ExitCode;

/// Chats that are named when one was asked for that is none.
const NAMED: usize = 5;

/// Arguments of `rotary chats`.
#[derive(Debug, Args)]
pub(super) struct ChatsArgs {
    /// A JSON array instead of text
    #[arg(long)]
    json: bool,
}

fn store() -> ChatStore {
    ChatStore::new(Folders::find().chats())
}

/// What was saved, the last first, a line each.
pub(super) fn list(args: &ChatsArgs) -> eyre::Result<ExitCode> {
    let chats = store().list();
    let mut out = io::stdout().lock();
    if args.json {
        let all: Vec<_> = chats
            .iter()
            .map(
                |c| serde_json::json!({ "id": c.id, "updated": c.updated, "messages": c.messages, "title": c.title, "problem": c.problem }),
            )
            .collect();
        writeln!(out, "{}", serde_json::to_string(&all)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let id = |id: &str| one_line(id, 60);
    let widest = chats.iter().map(|c| id(&c.id).chars().count()).max().unwrap_or(0);
    for chat in &chats {
        let what =
            chat.problem.as_ref().map_or_else(|| one_line(&chat.title, 80), |why| format!("can't be opened: {}", one_line(why, 200)));
        writeln!(out, "{:<widest$}  {:<20}  {what}", id(&chat.id), crate::ui::calendar::civil(&chat.updated))?;
    }
    if chats.is_empty() {
        writeln!(io::stderr().lock(), "no chat has been saved yet: `rotary` saves each as it goes on")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The id of a saved chat that can be opened, before there is a screen.
pub(super) fn known(id: &str) -> Result<String, Failure> {
    match store().load(id) {
        Ok(_) => Ok(id.to_owned()),
        Err(SessionError::Unknown { .. }) => {
            let all: Vec<String> = store().list().into_iter().filter(|c| c.problem.is_none()).map(|c| c.id).collect();
            Err(Failure::usage(format!("there is no saved chat {:?}; {}", one_line(id, 80), others(id, &all))))
        }
        Err(broken) => Err(Failure::usage(one_line(&broken.to_string(), 400))),
    }
}

/// Ids that may have been meant: those that begin alike or are a typing error away, else the last ones.
fn others(id: &str, all: &[String]) -> String {
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    let begins: Vec<&str> = names.iter().copied().filter(|name| !id.is_empty() && name.starts_with(id)).collect();
    let (which, near) = match (begins.is_empty(), nearest(id, &names)) {
        (false, _) => ("nearest are", begins),
        (true, Some(one)) => ("nearest is", vec![one]),
        (true, None) => ("the latest are", names),
    };
    if near.is_empty() {
        return "none has been saved yet".to_owned();
    }
    let near: Vec<String> = near.into_iter().take(NAMED).map(|name| one_line(name, 60)).collect();
    format!("{which} {}; `rotary chats` lists all", near.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_none_is_answered_with_those_that_are_near() {
        let all = ["20261123T105512-1-a", "20261124T000000-2-b", "20261124T000001-3-c"].map(str::to_owned);
        assert!(others("20261124", &all).starts_with("nearest are 20261124T000000-2-b, 20261124T000001-3-c;"));
        assert!(others("20261123T105512-1-b", &all).starts_with("nearest is 20261123T105512-1-a;"));
        assert!(others("zzz", &all).starts_with("the latest are 20261123T105512-1-a, "));
        assert_eq!(others("zzz", &[]), "none has been saved yet");
    }
}
