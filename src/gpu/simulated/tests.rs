use super::*;
use crate::gpu::params::{launch, Add};

const ORDERS: [Order; 7] =
    [Order::Queued, Order::Late, Order::CopyFirst, Order::ComputeFirst, Order::Random(1), Order::Random(2), Order::Random(3)];

fn device(order: Order) -> Simulated {
    Simulated::new(Options { memory: 1 << 20, order, ..Options::default() })
}

fn floats(device: &Simulated, at: Address, n: usize) -> Vec<f32> {
    device.peek(at, n * 4).unwrap().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn write(pinned: &Pinned, value: f32) {
    pinned.write(0..pinned.len(), &mut |bytes| bytes.chunks_exact_mut(4).for_each(|b| b.copy_from_slice(&value.to_le_bytes())));
}

fn add(device: &Simulated, x: &Memory, y: &Memory) {
    launch(device, &Add { x: x.address(), y: y.address(), len: 16, pad: 0 }, &[]).unwrap();
}

/// A slot is filled by the copy lane and read by the compute lane, over and over, from one staging buffer. The flags leave
/// out one of the three waits that this needs. What arrived, and the violations.
fn ring(order: Order, ready: bool, free: bool, staged: bool) -> (Vec<f32>, Vec<String>) {
    let d = device(order);
    let (slot, sum) = (d.alloc(64).unwrap(), d.alloc(64).unwrap());
    let staging = d.pinned(64).unwrap();
    d.clear(Lane::Compute, sum.address(), 64).unwrap();
    let mut last: Option<(Mark, Mark)> = None;
    for value in [1.0, 10.0, 100.0] {
        if let Some((uploaded, used)) = &last {
            if staged {
                d.sync(uploaded).unwrap();
            }
            if free {
                d.wait(Lane::Copy, used).unwrap();
            }
        }
        write(&staging, value);
        d.upload(Lane::Copy, slot.address(), &staging, 0..64).unwrap();
        let uploaded = d.mark(Lane::Copy).unwrap();
        if ready {
            d.wait(Lane::Compute, &uploaded).unwrap();
        }
        add(&d, &slot, &sum);
        last = Some((uploaded, d.mark(Lane::Compute).unwrap()));
    }
    (floats(&d, sum.address(), 16), d.violations())
}

#[test]
fn with_every_wait_in_place_every_order_gives_the_same_and_nothing_races() {
    for order in ORDERS {
        let (sum, violations) = ring(order, true, true, true);
        assert_eq!((sum, violations), (vec![111.0; 16], vec![]), "{order:?}");
    }
}

#[test]
fn a_missing_wait_is_found_in_every_order_even_where_the_numbers_are_right() {
    let mut wrong = 0;
    for order in ORDERS {
        for missing in 0..3 {
            let (sum, violations) = ring(order, missing != 0, missing != 1, missing != 2);
            assert!(!violations.is_empty(), "{order:?}, wait {missing}");
            wrong += usize::from(sum != vec![111.0; 16]);
        }
    }
    assert!(wrong >= 6, "hostile orders make the numbers wrong, too: {wrong}");
}

#[test]
fn a_violation_names_both_sides() {
    let (_, violations) = ring(Order::Queued, false, true, true);
    assert!(violations[0].contains("add (compute lane) reads") && violations[0].contains("upload (copy lane) writes"), "{violations:?}");
}

#[test]
fn what_a_launch_is_said_to_touch_is_checked_before_it_runs() {
    let d = device(Order::Late);
    let (x, y) = (d.alloc(64).unwrap(), d.alloc(64).unwrap());
    d.clear(Lane::Copy, x.address(), 64).unwrap();
    let touch = Touch { address: x.address(), bytes: 64, writes: false };
    launch(&d, &Add { x: y.address(), y: y.address(), len: 16, pad: 0 }, &[touch]).unwrap();
    assert_eq!(d.shared.lock().violations().len(), 1);
}

#[test]
fn fresh_memory_is_no_number_and_freed_memory_is_no_memory() {
    for order in ORDERS {
        let d = device(order);
        let (x, y) = (d.alloc(64).unwrap(), d.alloc(64).unwrap());
        assert!(floats(&d, x.address(), 16).iter().all(|v| v.is_nan()));
        d.clear(Lane::Compute, y.address(), 64).unwrap();
        add(&d, &y, &y);
        let gone = x.address();
        add(&d, &y, &x);
        drop(x);
        assert!(d.clear(Lane::Copy, gone, 4).is_err(), "dropped memory is not there for new work");
        let mark = d.mark(Lane::Compute).unwrap();
        d.sync(&mark).expect("queued work still had it");
        launch(&d, &Add { x: gone, y: y.address(), len: 16, pad: 0 }, &[]).unwrap();
        let mark = d.mark(Lane::Compute);
        assert!(mark.and_then(|m| d.sync(&m)).is_err(), "{order:?}");
        assert!(d.mark(Lane::Copy).is_err(), "a device that has failed stays failed");
        drop(y);
        assert_eq!((d.used(), d.pinned_used()), (0, 0));
    }
}

#[test]
fn memory_is_bounded_and_a_refusal_says_what_is_free() {
    let d = device(Order::Late);
    let half = d.alloc(512 << 10).unwrap();
    assert_eq!(d.alloc((512 << 10) + 1).unwrap_err(), GpuError::OutOfMemory { bytes: (512 << 10) + 1, free: 512 << 10 });
    drop(half);
    assert!(d.alloc(1 << 20).is_ok());
    assert_eq!((d.used(), d.used_peak(), d.free().unwrap()), (0, 1 << 20, 1 << 20));
}

#[test]
fn faults_come_when_they_are_told_to_and_once() {
    let d = device(Order::Queued);
    let (x, p) = (d.alloc(64).unwrap(), d.pinned(64).unwrap());
    d.fail(Faults { upload: Some(1), alloc: Some(0), launch: Some(0), pinned: Some(100), ..Faults::default() });
    assert!(d.upload(Lane::Copy, x.address(), &p, 0..64).is_ok());
    assert!(d.upload_now(Lane::Copy, x.address(), &[0; 64]).is_err());
    assert!(d.upload_now(Lane::Copy, x.address(), &[0; 64]).is_ok());
    assert!(matches!(d.alloc(64), Err(GpuError::OutOfMemory { .. })));
    assert!(d.alloc(64).is_ok() && d.pinned(36).is_ok());
    assert!(matches!(d.pinned(37), Err(GpuError::Pinned { .. })));
    let kernel = Add { x: x.address(), y: x.address(), len: 16, pad: 0 };
    assert!(launch(&d, &kernel, &[]).is_err());
    assert!(launch(&d, &kernel, &[]).is_ok());
    assert_eq!(d.launches(), 1);
}

#[test]
fn lanes_run_side_by_side_on_the_clock() {
    let speeds = Speeds { link: 1e9, pageable: 1e9, memory: 1e9, launch_us: 5.0, copy_us: 0.0 };
    for order in ORDERS {
        let d = Simulated::new(Options { memory: 1 << 20, order, speeds, ..Options::default() });
        let (slot, sum, staging) = (d.alloc(64_000).unwrap(), d.alloc(64).unwrap(), d.pinned(64_000).unwrap());
        d.clear(Lane::Compute, sum.address(), 64).unwrap();
        let begin = d.mark(Lane::Copy).unwrap();
        d.upload(Lane::Copy, slot.address(), &staging, 0..64_000).unwrap();
        let end = d.mark(Lane::Copy).unwrap();
        let idle = d.mark(Lane::Compute).unwrap();
        add(&d, &sum, &sum);
        let alone = d.mark(Lane::Compute).unwrap();
        d.wait(Lane::Compute, &end).unwrap();
        let both = d.mark(Lane::Compute).unwrap();
        d.sync(&both).unwrap();
        let us = |from, to| d.between(from, to).unwrap();
        assert!((us(&begin, &end) - 64.0).abs() < 0.01 && us(&idle, &alone) < 10.0 && us(&idle, &both) > 60.0, "{order:?}");
        assert!(d.between(&begin, &both).is_none() && d.host_us() >= 64.0);
    }
}

#[test]
fn memory_that_is_locked_where_it_lies_goes_up_is_never_written_and_can_be_refused() {
    let d = device(Order::Late);
    let mut huge = crate::gguf::Huge::new(64).unwrap();
    huge.iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
    let memory = huge.freeze();
    d.fail(Faults { lock: Some(1), ..Faults::default() });
    let locked = d.lock(&memory).unwrap();
    assert!(matches!(d.lock(&memory), Err(GpuError::Pinned { bytes: 64, .. })));
    let slot = d.alloc(64).unwrap();
    d.upload(Lane::Copy, slot.address(), &locked, 16..32).unwrap();
    assert!(d.download(Lane::Copy, slot.address(), &locked, 0..16).is_err());
    assert!(d.upload(Lane::Copy, slot.address(), &locked, 60..65).is_err());
    drop(memory);
    assert_eq!(d.peek(slot.address(), 16).unwrap(), (16..32).collect::<Vec<u8>>());
    assert_eq!((d.pinned_used(), d.uploads_in_place()), (64, 1));
    drop(locked);
    assert_eq!(d.pinned_used(), 0);
}

#[test]
fn an_upload_from_locked_memory_that_nothing_orders_is_a_violation() {
    let d = device(Order::Queued);
    let locked = d.lock(&crate::gguf::Huge::new(64).unwrap().freeze()).unwrap();
    let (slot, sum) = (d.alloc(64).unwrap(), d.alloc(64).unwrap());
    d.upload(Lane::Copy, slot.address(), &locked, 0..64).unwrap();
    add(&d, &slot, &sum);
    assert!(d.violations()[0].contains("upload (copy lane) writes"), "{:?}", d.violations());
}
