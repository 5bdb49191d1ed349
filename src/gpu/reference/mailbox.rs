//! How a kernel talks with the host while it runs: each side writes, then says so in a word of its own that the other watches.
//!
//! Here nobody waits: a kernel whose word has not been said answers [`ReferenceError::Waits`] and has written nothing; or, if it has patience and [`HostMemory::is_mute`], gives up at once.

use super::{Host, Meaning, ReferenceError};
use crate::gpu::params::{AddAnswer, AwaitHost, TellHost};
use crate::gpu::Address;

/// Where a kernel waits, and how long.
struct Wait {
    word: Address,
    turn: Address,
    step: u32,
    given_up: Address,
    patience: u32,
}

/// Whether `heard` says `awaits`, or more: both are counted up and may wrap, so that the nearer way around tells which comes first.
fn says(heard: u32, awaits: u32) -> bool {
    heard.wrapping_sub(awaits).cast_signed() >= 0
}

impl Host<'_> {
    /// Whether the host has said it; `false`: the kernel has given up, and said so.
    fn await_word(&mut self, wait: &Wait) -> Result<bool, ReferenceError> {
        let &Wait { word, turn, step, given_up, patience } = wait;
        let number = self.one::<u32>("turn", turn, 0)?;
        let awaits = number.wrapping_add(step);
        let heard = self.one("word", word, 0)?;
        if says(heard, awaits) {
            return Ok(true);
        }
        if patience > 0 && (self.one::<u32>("given_up", given_up, 0)? == number || self.memory.is_mute()) {
            self.put("given_up", given_up, 0, &[number])?;
            return Ok(false);
        }
        Err(ReferenceError::Waits { kernel: self.kernel, awaits, heard })
    }

    /// The device reads and writes the mailbox in words or in pieces of sixteen bytes.
    fn of_words(&self, pieces: &[(&str, Address)]) -> Result<(), ReferenceError> {
        match pieces.iter().find(|(_, at)| !at.0.is_multiple_of(4)) {
            None => Ok(()),
            Some((field, at)) => Err(self.refuse(format!("`{field}` is at {:#x}, no multiple of 4", at.0))),
        }
    }
}

impl Meaning for AwaitHost {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        host.demand(self.words <= Self::WORDS, "more than 1024 words")?;
        let Self { word, turn, from, to, given_up, words, step, patience, .. } = *self;
        host.of_words(&[("word", word), ("turn", turn), ("from", from), ("to", to), ("given_up", given_up)])?;
        let words: Vec<u32> = match host.await_word(&Wait { word, turn, step, given_up, patience })? {
            true => host.get("from", from, 0, words as usize)?,
            false => vec![u32::MAX; words as usize],
        };
        host.put("to", to, 0, &words)
    }
}

impl Meaning for TellHost {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        host.of_words(&[("word", self.word), ("turn", self.turn), ("from", self.from), ("to", self.to)])?;
        let says = host.one::<u32>("turn", self.turn, 0)?.wrapping_add(self.step);
        let words: Vec<u32> = host.get("from", self.from, 0, self.words as usize)?;
        host.put("to", self.to, 0, &words)?;
        host.put("word", self.word, 0, &[says])
    }
}

impl Meaning for AddAnswer {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        host.demand(self.pairs <= Self::PAIRS, "more than 64 pairs")?;
        let Self { word, turn, from, y, given_up, step, patience, .. } = *self;
        host.of_words(&[("word", word), ("turn", turn), ("from", from), ("y", y), ("given_up", given_up)])?;
        if host.get::<i32>("slots", self.slots, 0, self.pairs as usize)?.iter().all(|slot| *slot >= 0) {
            return Ok(());
        }
        if !host.await_word(&Wait { word, turn, step, given_up, patience })? {
            return Ok(());
        }
        let len = self.len as usize;
        let (answer, before) = (host.f32s("from", from, 0, len)?, host.f32s("y", y, 0, len)?);
        host.put("y", y, 0, &answer.iter().zip(before).map(|(a, y)| y + a).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::params::Kernel;
    use crate::gpu::reference::{run, HostMemory};
    use std::ops::Range;

    /// Words at addresses from 16 on.
    struct Words([u32; 16]);

    fn range(at: Address, len: usize) -> Option<Range<usize>> {
        let begin = usize::try_from(at.0.checked_sub(16)?).ok()?;
        (begin + len <= 64).then_some(begin..begin + len)
    }

    impl HostMemory for Words {
        fn bytes(&self, at: Address, len: usize) -> Option<&[u8]> {
            range(at, len).map(|r| &bytemuck::bytes_of(&self.0)[r])
        }
        fn bytes_mut(&mut self, at: Address, len: usize) -> Option<&mut [u8]> {
            range(at, len).map(|r| &mut bytemuck::bytes_of_mut(&mut self.0)[r])
        }
    }

    impl Words {
        fn run<K: Kernel>(&mut self, kernel: &K) -> Result<(), ReferenceError> {
            run(K::NAME, kernel.shape(), bytemuck::bytes_of(kernel), self)
        }
    }

    /// Of the n-th word.
    fn at(n: u64) -> Address {
        Address(16 + 4 * n)
    }

    #[test]
    fn a_word_that_was_said_is_said_for_what_came_before_it_and_over_the_wrap() {
        assert!(says(7, 7) && says(8, 7) && !says(6, 7));
        assert!(says(2, 0xFFFF_FFF0) && !says(0xFFFF_FFF0, 2));
    }

    #[test]
    fn who_waits_has_written_nothing_and_goes_on_once_the_host_has_said_it() {
        // The word, the turn, two words of the host's, and where they go.
        let mut memory = Words([0; 16]);
        memory.0[..6].copy_from_slice(&[2, 0xFFFF_FFF0, 5, 6, 0, 0]);
        let kernel =
            AwaitHost { word: at(0), turn: at(1), from: at(2), to: at(4), given_up: at(6), words: 2, step: 0x13, patience: 0, pad: 0 };
        let before = memory.0;
        assert_eq!(memory.run(&kernel), Err(ReferenceError::Waits { kernel: "await_host", awaits: 3, heard: 2 }));
        assert_eq!(memory.0, before);
        memory.0[0] = 4;
        memory.run(&kernel).unwrap();
        assert_eq!(memory.0[..6], [4, 0xFFFF_FFF0, 5, 6, 5, 6]);
    }

    #[test]
    fn what_the_host_is_told_is_there_with_the_word() {
        let mut memory = Words([0; 16]);
        memory.0[..4].copy_from_slice(&[1, 0xFFFF_FFFF, 8, 9]);
        memory.run(&TellHost { word: at(0), turn: at(1), from: at(2), to: at(5), words: 2, step: 3 }).unwrap();
        assert_eq!(memory.0[..8], [2, 0xFFFF_FFFF, 8, 9, 0, 8, 9, 0]);
    }

    #[test]
    fn an_answer_is_waited_for_only_if_an_expert_is_in_no_slot() {
        let mut memory = Words([0; 16]);
        // The turn, two slots, an answer, and what it is added to.
        memory.0[1..6].copy_from_slice(&[9, 0, 3, 1.5f32.to_bits(), 2.25f32.to_bits()]);
        let kernel = AddAnswer {
            word: at(0),
            turn: at(1),
            slots: at(2),
            from: at(4),
            y: at(5),
            given_up: at(6),
            pairs: 2,
            len: 1,
            step: 1,
            patience: 0,
        };
        let before = memory.0;
        memory.run(&AddAnswer { word: Address(4), from: Address(8), ..kernel }).unwrap();
        assert_eq!(memory.0, before);

        memory.0[3] = -1i32 as u32;
        let before = memory.0;
        assert_eq!(memory.run(&kernel), Err(ReferenceError::Waits { kernel: "add_answer", awaits: 10, heard: 0 }));
        assert_eq!(memory.0, before);
        memory.0[0] = 10;
        memory.run(&kernel).unwrap();
        assert_eq!(f32::from_bits(memory.0[5]), 3.75);
    }

    #[test]
    fn who_has_patience_gives_up_when_nobody_speaks_and_says_so_to_those_behind_it() {
        let mut memory = Words([0; 16]);
        let one = 1.0f32.to_bits();
        memory.0[..6].copy_from_slice(&[2, 7, one, 6, 1, 1]);
        let kernel =
            AwaitHost { word: at(0), turn: at(1), from: at(2), to: at(4), given_up: at(6), words: 2, step: 1, patience: 9, pad: 0 };
        memory.run(&kernel).unwrap();
        assert_eq!(memory.0[..7], [2, 7, one, 6, u32::MAX, u32::MAX, 7], "nothing is in a slot");
        let y = 2.25f32.to_bits();
        memory.0[7] = y;
        let (slots, from, given_up) = (at(4), at(2), at(6));
        let kernel = AddAnswer { word: at(0), turn: at(1), slots, from, y: at(7), given_up, pairs: 2, len: 1, step: 1, patience: 9 };
        memory.run(&kernel).unwrap();
        assert_eq!(memory.0[6..8], [7, y], "nothing is added");
        memory.0[0] = 8;
        memory.run(&kernel).unwrap();
        assert_eq!(memory.0[7], 3.25f32.to_bits(), "a word that is there is a word");
    }

    #[test]
    fn sizes_and_places_that_the_kernels_have_no_room_for_are_refused() {
        let mut memory = Words([0; 16]);
        let awaits =
            AwaitHost { word: at(0), turn: at(1), from: at(2), to: at(3), given_up: at(5), words: 1025, step: 0, patience: 0, pad: 0 };
        let (slots, from, y, given_up) = (at(2), at(3), at(4), at(5));
        let adds = AddAnswer { word: at(0), turn: at(1), slots, from, y, given_up, pairs: 65, len: 1, step: 0, patience: 0 };
        let odd = TellHost { word: at(0), turn: at(1), from: at(2), to: Address(30), words: 1, step: 0 };
        for (refused, why) in [
            (memory.run(&awaits), "more than 1024 words"),
            (memory.run(&adds), "more than 64 pairs"),
            (memory.run(&odd), "`to` is at 0x1e, no multiple of 4"),
        ] {
            assert!(refused.as_ref().is_err_and(|e| e.to_string().contains(why)), "{refused:?}");
        }
    }
}
