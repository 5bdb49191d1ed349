//! Earlier inputs: walked one by one, or searched.

use super::Composer;

/// Remembered inputs.
const MAX_HISTORY: usize = 500;

/// Search through the history, as Ctrl-R starts it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// What is looked for.
    pub query: String,
    /// The entry found, by its place in the history.
    pub found: Option<usize>,
}

impl Composer {
    /// Adds an input to the history, unless it repeats the newest.
    pub fn remember(&mut self, text: &str) {
        if !text.trim().is_empty() && self.history.last().is_none_or(|h| h != text) {
            self.history.push(text.to_owned());
            if self.history.len() > MAX_HISTORY {
                self.history.remove(0);
            }
        }
    }

    pub(super) fn older(&mut self) {
        let at = self.walk.as_ref().map_or(self.history.len(), |(at, _)| *at);
        if at > 0 {
            let draft = self.walk.take().map_or_else(|| self.text.clone(), |(_, draft)| draft);
            self.set(self.history[at - 1].clone());
            self.walk = Some((at - 1, draft));
        }
    }

    pub(super) fn newer(&mut self) {
        if let Some((at, draft)) = self.walk.take() {
            if at + 1 < self.history.len() {
                self.set(self.history[at + 1].clone());
                self.walk = Some((at + 1, draft));
            } else {
                self.set(draft);
            }
        }
    }

    /// The search that is going on.
    #[must_use]
    pub fn search(&self) -> Option<&Search> {
        self.search.as_ref()
    }

    /// The history entry that the search found.
    #[must_use]
    pub fn found(&self) -> Option<&str> {
        self.history.get(self.search.as_ref()?.found?).map(String::as_str)
    }

    /// Starts the search, or goes on to an older entry.
    pub fn search_older(&mut self) {
        match &self.search {
            None => {
                self.search = Some(Search::default());
                self.find(self.history.len());
            }
            Some(search) => {
                let from = search.found.unwrap_or(self.history.len());
                self.find(from);
            }
        }
    }

    pub(super) fn find(&mut self, before: usize) {
        let Some(search) = &mut self.search else { return };
        let wanted = search.query.to_lowercase();
        let found = self.history[..before.min(self.history.len())].iter().rposition(|h| h.to_lowercase().contains(&wanted));
        if found.is_some() || before == self.history.len() {
            search.found = found;
        }
    }

    /// Ends the search, taking what was found or leaving the input as it was.
    pub fn end_search(&mut self, take: bool) {
        let found = self.found().map(str::to_owned);
        self.search = None;
        if let (true, Some(found)) = (take, found) {
            let draft = self.text.clone();
            self.remember(&draft);
            self.set(found);
        }
    }
}
