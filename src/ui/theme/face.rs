//! The names that panes style by. A pane never names a colour; it names what a thing *is*.

macro_rules! faces {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// What a piece of the screen is. Each has a line in the theme files under `[faces]`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Face { $($(#[doc = $doc])+ $variant,)+ }

        impl Face {
            /// All faces, in the order of the theme files.
            pub const ALL: &'static [Face] = &[$(Face::$variant,)+];

            /// The name in theme files.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Face::$variant => $name,)+ }
            }

            /// What it is for, in one line.
            #[must_use]
            pub fn purpose(self) -> &'static str {
                match self { $(Face::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The face of that name.
            #[must_use]
            pub fn named(name: &str) -> Option<Face> {
                Face::ALL.iter().copied().find(|f| f.name() == name)
            }
        }
    };
}

faces! {
    /// Ordinary text; its background is that of the whole screen.
    Text = "text",
    /// Labels, units, hints: present but quiet.
    Dim = "dim",
    /// The one colour of the house: values that matter, the present point.
    Accent = "accent",
    /// Frame of a pane.
    Border = "border",
    /// Frame of the pane that has the keys.
    Focus = "focus",
    /// Title of a pane.
    Title = "title",
    /// What the person said.
    User = "user",
    /// What the model says.
    Assistant = "assistant",
    /// The model's reasoning.
    Thinking = "thinking",
    /// Code in an answer.
    Code = "code",
    /// Something failed.
    Error = "error",
    /// Worth a look, nothing broken.
    Notice = "notice",
    /// Selected line or text.
    Selection = "selection",
    /// Name of a key in help and footers.
    Key = "key",
    /// The cell under the cursor of the heatmap.
    Cursor = "cursor",
    /// Routed expert that was in a slot.
    Hit = "hit",
    /// Routed expert that was in no slot and stayed out.
    Miss = "miss",
    /// Expert that got a slot in this step.
    Admitted = "admitted",
    /// Expert that lost its slot in this step.
    Evicted = "evicted",
    /// Expert in a slot, for counts and legends; cells use the heat ramp.
    Resident = "resident",
    /// Expert in no slot, for legends; cells use the absent colours.
    Absent = "absent",
    /// First side of a comparison.
    SideA = "side-a",
    /// Second side of a comparison.
    SideB = "side-b",
    /// Filled part of a bar, and the curve.
    Bar = "bar",
    /// Rest of a bar.
    Track = "track",
    /// Step time: all weights that every token uses.
    Trunk = "trunk",
    /// Step time: experts in slots.
    TimeHits = "time-hits",
    /// Step time: experts computed from host memory.
    TimeMisses = "time-misses",
    /// Step time: copies into slots.
    TimeUpload = "time-upload",
    /// Step time: drawing the token.
    TimeSampling = "time-sampling",
}
