//! The cursor on the grid, the order of the cells, and what stands beside them: what keys change.

use super::ExpertsState;

/// What stands beside the grid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// Hits and misses of each layer in this step, where there is room.
    #[default]
    Step,
    /// Hit rate, effective experts, churn, bytes moved, entropy and regretted swaps of each layer, as many as there is room for.
    Profile,
    /// Nothing: all room to the grid.
    Bare,
}

/// What a key asks of the heatmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeatmapAction {
    /// Cursor up by so many layers.
    Up(usize),
    /// Cursor down by so many layers.
    Down(usize),
    /// Cursor left by so many experts.
    Left(usize),
    /// Cursor right by so many experts.
    Right(usize),
    /// Cursor to the first expert of the layer.
    First,
    /// Cursor to the last expert of the layer.
    Last,
    /// One layer fills the pane.
    Zoom,
    /// Back to all layers.
    Back,
    /// By heat, or by id.
    ToggleSort,
    /// The next thing beside the grid.
    NextSide,
}

impl ExpertsState {
    pub(super) fn sort(&mut self) {
        self.ordered_at = self.tokens;
        for layer in 0..self.layers {
            let row = self.row(layer);
            let heat = &self.heat[row.clone()];
            self.order[row].sort_by(|a, b| heat[usize::from(*b)].total_cmp(&heat[usize::from(*a)]).then(a.cmp(b)));
        }
    }

    /// The expert at a place of the layer's row: its id, or its rank by heat when sorted.
    #[must_use]
    pub fn expert_at(&self, layer: usize, place: usize) -> usize {
        if self.sorted {
            self.at(layer, place).map_or(place, |at| usize::from(self.order[at]))
        } else {
            place
        }
    }

    /// The place of an expert in its layer's row; the inverse of [`ExpertsState::expert_at`].
    #[must_use]
    pub fn place_of(&self, layer: usize, expert: usize) -> usize {
        if !self.sorted {
            return expert;
        }
        let order = self.order.get(self.row(layer)).unwrap_or(&[]);
        order.iter().position(|e| usize::from(*e) == expert).unwrap_or(expert)
    }

    fn go(&mut self, layer: usize, place: usize) {
        (self.layer, self.expert) = (layer, self.expert_at(layer, place));
    }

    /// Does what a key asked for. `false` if it means nothing here, so that the caller may use the key.
    pub fn act(&mut self, action: HeatmapAction) -> bool {
        let (bottom, right) = (self.layers.saturating_sub(1), self.experts.saturating_sub(1));
        let (layer, place) = (self.layer, self.place_of(self.layer, self.expert));
        match action {
            HeatmapAction::Up(n) => self.go(layer.saturating_sub(n), place),
            HeatmapAction::Down(n) => self.go(layer.saturating_add(n).min(bottom), place),
            HeatmapAction::Left(n) => self.go(layer, place.saturating_sub(n)),
            HeatmapAction::Right(n) => self.go(layer, place.saturating_add(n).min(right)),
            HeatmapAction::First => self.go(layer, 0),
            HeatmapAction::Last => self.go(layer, right),
            HeatmapAction::Zoom => {
                if self.zoomed || self.layers == 0 {
                    return false;
                }
                self.zoomed = true;
            }
            HeatmapAction::Back => {
                if !self.zoomed {
                    return false;
                }
                self.zoomed = false;
            }
            HeatmapAction::ToggleSort => {
                self.sorted = !self.sorted;
                if self.sorted {
                    self.sort();
                }
            }
            HeatmapAction::NextSide => {
                self.side = match self.side {
                    Side::Step => Side::Profile,
                    Side::Profile => Side::Bare,
                    Side::Bare => Side::Step,
                };
            }
        }
        true
    }
}
