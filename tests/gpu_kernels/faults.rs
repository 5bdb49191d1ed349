//! That the watch over threads sees what it is there for: small kernels with one fault each.

use crate::host::{together, Arena};

#[test]
fn each_fault_of_a_kernel_is_told_and_right_ones_pass() {
    let told = [
        ("right", None),
        ("right_in_a_warp", None),
        ("no_wait", Some("of shared memory, which thread 0 has read, and nothing orders the two")),
        ("wait_of_the_warp_alone", Some("which thread 64 has written, and nothing orders the two")),
        ("shuffle_for_a_wait", Some("has written, and nothing orders the two")),
        ("written_while_read", Some("which thread 0 has written, and nothing orders the two")),
        ("blocks_write_the_same", Some("of device memory, which thread 0 of another block has written")),
        ("one_block_reads_another", Some("of device memory, which thread 0 of another block has written")),
        ("alike", None),
        ("not_alike", Some("thread 100 puts 1 where thread 99 has put 0")),
        ("waits_in_two_places", Some("wait for their block in different places")),
        ("leaves_its_warp", Some("thread 7 has left")),
        ("reads_before_its_turn", Some("thread 0 reads byte")),
        ("never_waits_for_its_turn", Some("thread 0 leaves without having waited for its turn")),
        ("tells_the_host", None),
        ("tells_before_all_have_written", Some("thread 0 tells the host of what thread 32 has written, and nothing orders the two")),
        ("tells_while_others_write", Some("thread 1 writes for the host, which thread 0 has told, and nothing orders the two")),
        ("hears_the_host", None),
        ("one_hears_and_others_read", Some("thread 32 reads what the host wrote, in no order with its word")),
        ("reads_what_nobody_has_heard_of", Some("thread 0 reads what the host wrote, in no order with its word")),
    ];
    for (name, want) in told {
        let mut arena = Arena::new(1);
        let out = arena.put(&[0.0f32; 256]);
        let got = together().fault(name, out, arena.memory());
        match want {
            None => assert_eq!(got, Ok(()), "{name}"),
            Some(want) => assert!(got.as_ref().is_err_and(|e| e.contains(want)), "{name}: {got:?}"),
        }
    }
}
