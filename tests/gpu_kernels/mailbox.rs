//! The kernels that talk with the host. Its mailbox is memory like any other here, and another thread the host.

use crate::host::Arena;
use rotary::gpu::params::*;
use rotary::gpu::Address;
use std::sync::atomic::{AtomicU32, Ordering};

const NONE: Address = Address::NONE;
/// A turn that wraps on the way to the word.
const LATE: u32 = 0xFFFF_FFF0;
/// Turns and steps, and what the host's word has come to: what is asked for, more, and over the wrap.
const SAID: [(u32, u32, u32); 5] = [(1, 2, 3), (1, 2, 40), (LATE, 0x20, 0x10), (LATE, 0x20, 0x11), (LATE, 3, 5)];

fn at(piece: Address, words: usize) -> Address {
    piece.plus(4 * words)
}

/// Room for a piece of so many words, at a multiple of 16 or no more than 4: the piece begins so many words later.
fn piece(a: &mut Arena, words: usize) -> (Address, usize) {
    let by = a.one_of(&[0, 0, 1, 2, 3]);
    (a.noise(words + by, 1.0), by)
}

/// Lengths that end inside a warp, inside a round of all threads, and beyond it.
fn lengths(most: usize) -> Vec<usize> {
    [0, 1, 4, 6, 255, 256, 320, 1000, 1021, 1024, 1028, 2048, 4099, 6400, 8192].into_iter().filter(|&n| n <= most).collect()
}

#[test]
fn what_the_host_has_written_comes_to_the_device() {
    for (case, words) in lengths(AwaitHost::WORDS as usize).into_iter().enumerate() {
        for (turn, step, said) in SAID {
            let a = &mut Arena::new(case as u64 * 100 + u64::from(said));
            let ((from, by), (to, to_by)) = (piece(a, words), piece(a, words));
            let (word, turn) = (a.put(&[said]), a.put(&[turn]));
            // Who finds the word there does not look whether anybody gave up.
            for (given_up, patience) in [(NONE, 0), (turn, 50)] {
                let (from, to) = (at(from, by), at(to, to_by));
                a.check(&AwaitHost { word, turn, from, to, given_up, words: words as u32, step, patience, pad: 0 }, &[]);
            }
        }
    }
}

#[test]
fn what_the_host_is_told_lies_there_with_the_word() {
    for (case, words) in lengths(8192).into_iter().enumerate() {
        for (turn, step, said) in SAID {
            let a = &mut Arena::new(case as u64 * 100 + u64::from(said));
            let ((from, by), (to, to_by)) = (piece(a, words), piece(a, words));
            // What the device said before is nothing to it.
            let (word, turn) = (a.put(&[said ^ 0x8000_0000]), a.put(&[turn]));
            a.check(&TellHost { word, turn, from: at(from, by), to: at(to, to_by), words: words as u32, step }, &[]);
        }
    }
}

#[test]
fn an_answer_is_added_exactly_if_an_expert_was_in_no_slot() {
    for (case, len) in lengths(8192).into_iter().enumerate() {
        for (i, (turn, step, said)) in SAID.into_iter().enumerate() {
            let a = &mut Arena::new(case as u64 * 100 + u64::from(said));
            let ((from, by), (y, y_by)) = (piece(a, len), piece(a, len));
            let pairs = [1, 8, 31, 33, AddAnswer::PAIRS as usize][i];
            let mut slots = vec![3i32; pairs];
            // Another one each time; the last of them too.
            slots[if case % 2 == 0 { pairs - 1 } else { a.below(pairs) }] = [-1, i32::MIN][a.below(2)];
            let (word, turn, slots) = (a.put(&[said]), a.put(&[turn]), a.put(&slots));
            for (given_up, patience) in [(NONE, 0), (turn, 50)] {
                let (from, y, len) = (at(from, by), at(y, y_by), len as u32);
                a.check(&AddAnswer { word, turn, slots, from, y, given_up, pairs: pairs as u32, len, step, patience }, &[]);
            }
        }
    }
}

#[test]
fn nothing_of_the_mailbox_is_read_if_all_experts_are_in_slots() {
    for pairs in [0, 1, 8, 33, 64] {
        let a = &mut Arena::new(pairs as u64);
        // Behind the last slot lies one that is none, and a mailbox there is not.
        let mut slots = vec![0i32; pairs];
        slots.push(-1);
        let (turn, slots, y) = (a.put(&[7u32]), a.put(&slots), a.noise(2048, 1.0));
        for patience in [0, 50] {
            let k = AddAnswer { word: NONE, turn, slots, from: NONE, y, given_up: NONE, pairs: pairs as u32, len: 2048, step: 1, patience };
            a.check(&k, &[]);
        }
    }
}

/// The host's part of a test in a thread of its own: writes `words` from `from` on, then says `said`.
#[allow(unsafe_code)]
fn host(word: Address, from: Address, words: usize, said: u32) {
    for i in 0..words as u64 {
        // SAFETY: the caller's arena holds so many words there; nothing but the kernel that waits for them touches them meanwhile, and it reads them after the word.
        unsafe { std::ptr::with_exposed_provenance_mut::<u32>((from.0 + 4 * i) as usize).write(1 + i as u32) };
    }
    // SAFETY: as above, at a multiple of 4; the kernel reads it as an atomic.
    unsafe { AtomicU32::from_ptr(std::ptr::with_exposed_provenance_mut(word.0 as usize)) }.store(said, Ordering::Release);
}

#[test]
fn a_kernel_waits_until_the_host_has_written_and_said_so() {
    for (words, by, turn, step, before, said) in
        [(512, 0, 9, 4, 12, 13), (512, 1, 9, 4, 0, 13), (600, 0, LATE, 0x20, LATE, 0x10), (8, 0, LATE, 0x20, 0xF, 0x12), (1, 3, 1, 1, 1, 2)]
    {
        let a = &mut Arena::new(u64::from(said) + by as u64);
        let (from, y) = (at(a.noise(words + by, 1.0), by), a.noise(words, 1.0));
        let (word, turn, slots) = (a.put(&[before]), a.put(&[turn]), a.put(&[2, -1, 0, 5]));
        // Without limit; and with patience enough, another token having been given up.
        let given_up = a.put(&[u32::MAX - 3]);
        for patience in [0, 600_000_000] {
            let awaits = AwaitHost { word, turn, from, to: y, given_up, words: words as u32, step, patience, pad: 0 };
            a.check_waiting(&awaits, patience > 0, &|| host(word, from, words, said));
            let adds = AddAnswer { word, turn, slots, from, y, given_up, pairs: 4, len: words as u32, step, patience };
            a.check_waiting(&adds, patience > 0, &|| host(word, from, words, said));
        }
    }
}

#[test]
fn a_kernel_whose_host_says_nothing_gives_up_after_a_while_and_at_once_if_another_has() {
    for (case, words) in lengths(AwaitHost::WORDS as usize).into_iter().enumerate() {
        for (number, step, before) in [(9, 4, 12), (LATE, 0x20, LATE), (LATE, 0x20, 0xF)] {
            // Of another token, or of this one: then it need not run out of patience.
            for (gave_up, patience) in [(number - 1, 50), (number, 600_000_000)] {
                let a = &mut Arena::new(case as u64 * 100 + u64::from(before));
                let ((from, by), (to, to_by)) = (piece(a, words), piece(a, words));
                let (word, turn, given_up, slots) = (a.put(&[before]), a.put(&[number]), a.put(&[gave_up]), a.put(&[2, -1, 0, 5]));
                let (from, to, words) = (at(from, by), at(to, to_by), words as u32);
                a.check(&AwaitHost { word, turn, from, to, given_up, words, step, patience, pad: 0 }, &[]);
                a.check(&AddAnswer { word, turn, slots, from, y: to, given_up, pairs: 4, len: words, step, patience }, &[]);
            }
        }
    }
}
