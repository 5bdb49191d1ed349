//! What the memory pane knows, folded from step records and gauges.

use crate::events::{Gauges, ModelCard, StepRecord};

/// The memory pane's state.
#[derive(Clone, Debug, Default)]
pub struct MemoryState {
    gauges: Gauges,
}

impl MemoryState {
    /// An empty state for the model that was opened.
    #[must_use]
    pub fn open(_card: &ModelCard) -> Self {
        Self::default()
    }

    /// Folds one step in.
    pub fn apply(&mut self, _record: &StepRecord) {}

    /// Takes the latest gauges.
    pub fn gauges(&mut self, gauges: &Gauges) {
        self.gauges = gauges.clone();
    }
}
