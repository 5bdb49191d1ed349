//! When to draw. Pure: times in, times out.
//!
//! Anything may ask for a frame; requests are folded into the earliest time at which one may be drawn. What a
//! person types is echoed at once. Text of the model is drawn at the frame rate. Telemetry changes most of the
//! heatmap with every token, which over SSH is most of the bytes, so it has its own, lower rate; where a screen is so large
//! that even this would send more than [`TELEMETRY_BYTES`] per second, the rate is lowered to what fits.

use std::time::{Duration, Instant};

/// Between two updates of the panes by telemetry alone.
pub const TELEMETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Bytes per second that frames with telemetry may send: what the heatmap of a full screen takes at four to five frames a
/// second, and a tenth of it with `ssh -C`.
pub const TELEMETRY_BYTES: usize = 85_000;
/// Longest time between two updates by telemetry, however large they are.
const SLOWEST: Duration = Duration::from_secs(1);

/// The times of frames.
#[derive(Clone, Debug)]
pub struct Pacer {
    interval: Duration,
    last: Option<Instant>,
    due: Option<Instant>,
    last_fold: Option<Instant>,
    fold_due: Option<Instant>,
    /// The frame at hand shows new telemetry.
    folded: bool,
    /// How long the last such frame keeps the telemetry waiting, by its bytes.
    rest: Duration,
}

impl Pacer {
    /// At most `rate` frames per second.
    #[must_use]
    pub fn new(rate: u32) -> Self {
        let interval = Duration::from_secs(1) / rate.max(1);
        Self { interval, last: None, due: None, last_fold: None, fold_due: None, folded: false, rest: Duration::ZERO }
    }

    fn ask(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// A person did something: draw now.
    pub fn now(&mut self, now: Instant) {
        self.ask(now);
    }

    /// Something changed: draw at the next frame.
    pub fn soon(&mut self, now: Instant) {
        let at = self.last.map_or(now, |last| (last + self.interval).max(now));
        self.ask(at);
    }

    /// Telemetry came in: fold and draw it at the telemetry rate.
    pub fn telemetry(&mut self, now: Instant) {
        if self.fold_due.is_none() {
            let interval = TELEMETRY_INTERVAL.max(self.interval).max(self.rest);
            self.fold_due = Some(self.last_fold.map_or(now, |last| (last + interval).max(now)));
        }
    }

    /// Telemetry is to be folded into the state now. Asks for a frame if so.
    pub fn take_fold(&mut self, now: Instant) -> bool {
        let due = self.fold_due.is_some_and(|due| due <= now);
        if due {
            self.fold_due = None;
            self.last_fold = Some(now);
            self.folded = true;
            self.soon(now);
        }
        due
    }

    /// A frame is to be drawn now.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// A frame was drawn.
    pub fn drawn(&mut self, now: Instant) {
        self.last = Some(now);
        self.due = None;
    }

    /// The frame that was drawn has this many bytes.
    pub fn sent(&mut self, bytes: usize) {
        if std::mem::take(&mut self.folded) {
            self.rest = (Duration::from_secs(1) * u32::try_from(bytes).unwrap_or(u32::MAX) / TELEMETRY_BYTES as u32).min(SLOWEST);
        }
    }

    /// When to look again; `None` if nothing is wanted, and then nothing is sent.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.due.into_iter().chain(self.fold_due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn nothing_wanted_means_no_deadline() {
        let mut p = Pacer::new(20);
        let t = Instant::now();
        assert_eq!(p.deadline(), None);
        p.soon(t);
        p.drawn(t);
        assert_eq!(p.deadline(), None);
    }

    #[test]
    fn a_flood_of_text_is_drawn_at_the_frame_rate_only() {
        let mut p = Pacer::new(20);
        let start = Instant::now();
        let mut frames = 0;
        for ms in 0..1000 {
            let now = start + MS * ms;
            p.soon(now);
            if p.is_due(now) {
                p.drawn(now);
                frames += 1;
            }
        }
        assert_eq!(frames, 20);
    }

    #[test]
    fn a_key_is_echoed_at_once_even_just_after_a_frame() {
        let mut p = Pacer::new(20);
        let t = Instant::now();
        p.soon(t);
        p.drawn(t);
        p.soon(t + MS);
        assert!(!p.is_due(t + MS));
        p.now(t + MS);
        assert!(p.is_due(t + MS));
    }

    #[test]
    fn large_frames_of_telemetry_come_less_often_and_small_ones_as_often_as_ever() {
        for (bytes, most) in [(1_000, 5), (34_000, 3), (85_000, 1), (10_000_000, 1)] {
            let mut p = Pacer::new(20);
            let start = Instant::now();
            let mut sent = 0;
            for ms in 0..10_000 {
                let now = start + MS * ms;
                p.telemetry(now);
                p.take_fold(now);
                if p.is_due(now) {
                    p.drawn(now);
                    p.sent(bytes);
                    sent += 1;
                }
            }
            assert!(sent <= most * 10 && sent >= (most * 10).min(10) - 1, "{sent} frames of {bytes} bytes in ten seconds");
        }
    }

    #[test]
    fn telemetry_alone_draws_five_times_a_second() {
        let mut p = Pacer::new(20);
        let start = Instant::now();
        let (mut frames, mut folds) = (0, 0);
        for ms in 0..1000 {
            let now = start + MS * ms;
            p.telemetry(now);
            if p.take_fold(now) {
                folds += 1;
            }
            if p.is_due(now) {
                p.drawn(now);
                frames += 1;
            }
        }
        assert_eq!((folds, frames), (5, 5));
    }
}
