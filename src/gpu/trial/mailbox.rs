//! How the launches of trials of the kernels that talk with the host are laid out. The mailbox is device memory here, and what the host has to say it has said before: what is tried is what they
//! read, write and leave alone, not the way over the bus.

use super::cases::numbers;
use super::{launch, Layout, Trial};
use crate::gpu::params::{AddAnswer, AwaitHost, Kernel, TellHost};
use crate::gpu::Address;
use fastrand::Rng;

/// A token's number just before the wrap, a step behind it, and the word that says just that.
const TURN: u32 = 0xFFFF_FFF0;
const STEP: u32 = 0x20;
const SAID: u32 = TURN.wrapping_add(STEP);

fn words(r: &mut Rng, len: u32) -> Vec<u32> {
    (0..len).map(|_| r.u32(..)).collect()
}

/// The host has said it, or says nothing in a millisecond.
pub(super) fn await_host(r: &mut Rng, len: u32, said: bool) -> Trial {
    let mut l = Layout::new();
    let word = l.input("word", &[if said { SAID } else { SAID - 1 }]);
    let (turn, given_up) = (l.input("turn", &[TURN]), l.input("given up", &[TURN - 1]));
    let (from, to) = (l.input("mailbox", &words(r, len)), l.input("what came", &words(r, len)));
    let (about, patience) = if said { ("", 0) } else { (" that do not come", 1000) };
    l.trial(AwaitHost::NAME, format!("{len} words{about}"), move |b| {
        let (word, turn, from, to, given_up) = (word.of(b), turn.of(b), from.of(b), to.of(b), given_up.of(b));
        vec![launch(AwaitHost { word, turn, from, to, given_up, words: len, step: STEP, patience, pad: 0 })]
    })
}

pub(super) fn tell_host(r: &mut Rng, len: u32) -> Trial {
    let mut l = Layout::new();
    let (word, turn) = (l.input("word", &[SAID - 1]), l.input("turn", &[TURN]));
    let (from, to) = (l.input("what is told", &words(r, len)), l.input("mailbox", &words(r, len)));
    l.trial(TellHost::NAME, format!("{len} words"), move |b| {
        vec![launch(TellHost { word: word.of(b), turn: turn.of(b), from: from.of(b), to: to.of(b), words: len, step: STEP })]
    })
}

/// One expert of eight in no slot, or none; of both the host has said more than is asked for.
pub(super) fn add_answer(r: &mut Rng, len: u32, missed: bool) -> Trial {
    let mut l = Layout::new();
    let (word, turn) = (l.input("word", &[SAID + 1]), l.input("turn", &[TURN]));
    let mut slots = [3i32, 0, 7, 12, 1, 9, 4, 2];
    if missed {
        slots[5] = -1;
    }
    let (slots, from, y) =
        (l.input("slots", &slots), l.input("mailbox", &numbers(r, len as usize)), l.input("y", &numbers(r, len as usize)));
    let about = format!("{len} values, {}", if missed { "one expert missed" } else { "none missed" });
    l.trial(AddAnswer::NAME, about, move |b| {
        let (word, turn, slots, from, y) = (word.of(b), turn.of(b), slots.of(b), from.of(b), y.of(b));
        vec![launch(AddAnswer { word, turn, slots, from, y, given_up: Address::NONE, pairs: 8, len, step: STEP, patience: 0 })]
    })
}
