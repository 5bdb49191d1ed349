//! From cells to bytes to the terminal: one write per frame, on a thread of its own.
//!
//! ratatui draws into memory through [`FrameBackend`], which leaves out whatever would change nothing (colour
//! resets after an empty difference, a cursor that is already there), so that a frame without change has no
//! bytes at all. [`FramePipe`] hands the bytes of one frame to a thread that writes them in one call. While
//! that frame is under way no other is drawn: on a slow or stalled link frames are skipped, never queued, and
//! the rest of the program never waits for the terminal.

use super::encoder::encode;
use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::QueueableCommand;
use ratatui::backend::{Backend, ClearType, CrosstermBackend, WindowSize};
use ratatui::buffer::Cell;
use ratatui::layout::{Position, Size};
use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{sync_channel, SyncSender, TrySendError};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A usual frame fits; more is allocated when needed.
const FRAME_CAPACITY: usize = 128 * 1024;

/// Bytes of the frame that is being drawn. Flushing does nothing: a frame leaves as a whole.
#[derive(Clone, Default)]
struct FrameBytes(Rc<RefCell<Vec<u8>>>);

impl Write for FrameBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A ratatui backend that collects one frame in memory and never asks the terminal anything.
pub struct FrameBackend {
    inner: CrosstermBackend<FrameBytes>,
    bytes: FrameBytes,
    size: Size,
    /// Cells were drawn in this frame, so the terminal's cursor is somewhere else now.
    moved: bool,
    wanted: (bool, Position),
    /// What the terminal shows; unknown at first and after other programs had it.
    known: Option<(bool, Position)>,
}

impl FrameBackend {
    /// A backend for a terminal of this size.
    #[must_use]
    pub fn new(size: Size) -> Self {
        let bytes = FrameBytes::default();
        bytes.0.borrow_mut().reserve(FRAME_CAPACITY);
        Self { inner: CrosstermBackend::new(bytes.clone()), bytes, size, moved: false, wanted: (false, Position::ORIGIN), known: None }
    }

    /// The terminal has another size now.
    pub fn resize(&mut self, size: Size) {
        self.size = size;
    }

    /// Ends the frame: its bytes, or `None` if nothing changed.
    #[must_use]
    pub fn take_frame(&mut self) -> Option<Vec<u8>> {
        if self.moved || self.known != Some(self.wanted) {
            let (visible, at) = self.wanted;
            let mut out = self.bytes.clone();
            // Writing to memory can't fail.
            if visible {
                let _ = out.queue(MoveTo(at.x, at.y));
                if !self.known.is_some_and(|(shown, _)| shown) {
                    let _ = out.queue(Show);
                }
            } else if self.known.is_none_or(|(shown, _)| shown) {
                let _ = out.queue(Hide);
            }
            self.known = Some(self.wanted);
            self.moved = false;
        }
        let mut bytes = self.bytes.0.borrow_mut();
        if bytes.is_empty() {
            return None;
        }
        Some(std::mem::replace(&mut *bytes, Vec::with_capacity(FRAME_CAPACITY)))
    }

    /// Another program had the terminal: nothing is known about the cursor any more.
    pub fn forget_cursor(&mut self) {
        self.known = None;
    }
}

impl Backend for FrameBackend {
    type Error = io::Error;

    fn draw<'a, I>(&mut self, content: I) -> io::Result<()>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        let mut content = content.peekable();
        if content.peek().is_some() {
            self.moved = true;
            encode(&mut self.bytes.0.borrow_mut(), content);
        }
        Ok(())
    }
    fn hide_cursor(&mut self) -> io::Result<()> {
        self.wanted.0 = false;
        Ok(())
    }
    fn show_cursor(&mut self) -> io::Result<()> {
        self.wanted.0 = true;
        Ok(())
    }
    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(self.wanted.1)
    }
    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        self.wanted.1 = position.into();
        Ok(())
    }
    fn clear(&mut self) -> io::Result<()> {
        self.moved = true;
        self.inner.clear()
    }
    fn clear_region(&mut self, clear_type: ClearType) -> io::Result<()> {
        self.moved = true;
        self.inner.clear_region(clear_type)
    }
    fn size(&self) -> io::Result<Size> {
        Ok(self.size)
    }
    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize { columns_rows: self.size, pixels: Size::ZERO })
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What both ends of the pipe know.
#[derive(Default)]
struct Link {
    in_flight: AtomicBool,
    failed: AtomicBool,
    bytes: AtomicU64,
    drain_us: AtomicU64,
}

/// The way to the terminal, with room for one frame.
pub struct FramePipe {
    frames: SyncSender<Vec<u8>>,
    link: Arc<Link>,
    drained: Arc<Notify>,
}

/// How the link to the terminal does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// Bytes sent so far.
    pub bytes: u64,
    /// How long the last frame took to drain.
    pub drain: Duration,
}

impl FramePipe {
    /// Starts the writing thread.
    ///
    /// # Errors
    /// If the thread can't be started.
    pub fn new<W: Write + Send + 'static>(mut out: W) -> io::Result<Self> {
        let (frames, inbox) = sync_channel::<Vec<u8>>(1);
        let link = Arc::new(Link::default());
        let drained = Arc::new(Notify::new());
        let (their_link, their_drained) = (Arc::clone(&link), Arc::clone(&drained));
        std::thread::Builder::new().name("terminal-writer".into()).spawn(move || {
            while let Ok(frame) = inbox.recv() {
                let start = Instant::now();
                if out.write_all(&frame).and_then(|()| out.flush()).is_err() {
                    their_link.failed.store(true, Ordering::Release);
                }
                let drain = start.elapsed().as_micros().min(u128::from(u64::MAX)) as u64;
                their_link.drain_us.store(drain, Ordering::Relaxed);
                their_link.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
                their_link.in_flight.store(false, Ordering::Release);
                their_drained.notify_one();
            }
        })?;
        Ok(Self { frames, link, drained })
    }

    /// The last frame has been taken by the terminal.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.link.in_flight.load(Ordering::Acquire)
    }

    /// The terminal refused a frame.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.link.failed.load(Ordering::Acquire)
    }

    /// Sends a frame. Only to be called when [`FramePipe::is_ready`]; otherwise the frame is given back.
    ///
    /// # Errors
    /// The frame, if the one before is still under way.
    pub fn send(&self, frame: Vec<u8>) -> Result<(), Vec<u8>> {
        if self.link.in_flight.swap(true, Ordering::AcqRel) {
            return Err(frame);
        }
        self.frames.try_send(frame).map_err(|e| match e {
            TrySendError::Full(frame) | TrySendError::Disconnected(frame) => frame,
        })
    }

    /// Wakes when a frame has drained.
    #[must_use]
    pub fn drained(&self) -> Arc<Notify> {
        Arc::clone(&self.drained)
    }

    /// Waits until the last frame is out, at most for `limit`. True if it is.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while !self.is_ready() {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// How the link does.
    #[must_use]
    pub fn state(&self) -> LinkState {
        LinkState {
            bytes: self.link.bytes.load(Ordering::Relaxed),
            drain: Duration::from_micros(self.link.drain_us.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::widgets::Paragraph;
    use ratatui::Terminal;
    use std::sync::mpsc::{channel, Receiver, Sender};

    fn terminal() -> Terminal<FrameBackend> {
        Terminal::new(FrameBackend::new(Size::new(40, 5))).unwrap()
    }

    fn draw(t: &mut Terminal<FrameBackend>, text: &str, cursor: Option<(u16, u16)>) -> Option<Vec<u8>> {
        t.draw(|frame| {
            frame.render_widget(Paragraph::new(text), frame.area());
            if let Some(at) = cursor {
                frame.set_cursor_position(at);
            }
        })
        .unwrap();
        t.backend_mut().take_frame()
    }

    #[test]
    fn a_frame_without_change_has_no_bytes() {
        let mut t = terminal();
        assert!(draw(&mut t, "hello", Some((1, 0))).is_some());
        assert_eq!(draw(&mut t, "hello", Some((1, 0))), None);
        assert_eq!(draw(&mut t, "hello", Some((1, 0))), None);
        assert!(draw(&mut t, "hullo", Some((1, 0))).is_some());
        assert_eq!(draw(&mut t, "hullo", Some((1, 0))), None);
    }

    #[test]
    fn a_cursor_that_only_moves_sends_only_the_move() {
        let mut t = terminal();
        draw(&mut t, "hello", Some((1, 0)));
        assert_eq!(draw(&mut t, "hello", Some((3, 2))).unwrap(), b"\x1b[3;4H");
        assert_eq!(draw(&mut t, "hello", None).unwrap(), b"\x1b[?25l");
        assert_eq!(draw(&mut t, "hello", None), None);
    }

    #[test]
    fn the_bytes_draw_the_same_screen_in_a_real_parser() {
        let mut t = terminal();
        let size = |n| std::num::NonZero::new(n).expect("not zero");
        let mut parser = vt100::Parser::new(size(5), size(40), 0);
        for text in ["one 你好 two", "one 你好 three", "一二三", ""] {
            if let Some(frame) = draw(&mut t, text, Some((0, 4))) {
                parser.process(&frame);
            }
            assert_eq!(parser.screen().contents().trim_end(), text);
        }
    }

    /// A terminal that takes each write only when told to.
    struct Gate {
        open: Receiver<()>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.open.recv().map_err(io::Error::other)?;
            self.written.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_frame_is_in_flight_at_most_and_each_is_one_write() {
        let (open, gate) = channel();
        let (written, seen) = channel();
        let pipe = FramePipe::new(Gate { open: gate, written }).unwrap();
        pipe.send(vec![b'a'; 100_000]).unwrap();
        assert!(!pipe.is_ready());
        assert_eq!(pipe.send(b"b".to_vec()), Err(b"b".to_vec()));
        open.send(()).unwrap();
        assert_eq!(seen.recv().unwrap().len(), 100_000);
        assert!(pipe.wait(Duration::from_secs(10)));
        assert_eq!(pipe.state().bytes, 100_000);
        drop(open);
        pipe.send(b"c".to_vec()).unwrap();
        assert!(pipe.wait(Duration::from_secs(10)));
        assert!(pipe.has_failed());
    }
}
