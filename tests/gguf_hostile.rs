//! The model file is hostile input: whatever is done to a valid file, the reader answers with a file or a typed error.
//! It never panics, and allocates no more than a small multiple of the file's length.

use proptest::prelude::*;
use rotary::gguf::write::Writer;
use rotary::gguf::{Bytes, GgmlType, Gguf, GgufError, Value};
use rotary::text::{ChatTemplate, Tokenizer};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

/// Notes the largest single allocation of each thread.
struct Watch;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

#[allow(unsafe_code)]
// SAFETY: every call goes to the system allocator unchanged; the note is a plain number without a destructor.
unsafe impl GlobalAlloc for Watch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = LARGEST.try_with(|l| l.set(l.get().max(layout.size())));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = LARGEST.try_with(|l| l.set(l.get().max(size)));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static WATCH: Watch = Watch;

/// A small file with every kind of value, several types, and stacked experts.
fn valid() -> Writer {
    let mut file = Writer::new("qwen3moe")
        .with("general.name", "small")
        .with("a.u64", u64::MAX)
        .with("a.i64", -5i64)
        .with("a.f32", 1.5f32)
        .with("a.f64", 2.5f64)
        .with("a.bool", true)
        .with("a.nested", Value::Array(vec![Value::from(vec![1u32, 2]), Value::from(vec![3u32])]))
        .with("tokenizer.ggml.model", "gpt2")
        .with("tokenizer.ggml.pre", "qwen2")
        .with("tokenizer.ggml.tokens", vec!["a", "b", "ab", "<|im_end|>"])
        .with("tokenizer.ggml.token_type", vec![1i32, 1, 1, 3])
        .with("tokenizer.ggml.merges", vec!["a b"])
        .with("tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}");
    file.f32_tensor("norm.weight", &[8], &[1.0; 8]);
    file.tensor("blk.0.ffn_up_exps.weight", GgmlType::Q8_0, &[64, 3, 4], vec![7; 68 * 12]);
    file.tensor("blk.0.q4.weight", GgmlType::Q4K, &[256, 2], vec![3; 288]);
    file
}

fn open(bytes: Vec<u8>) -> Result<Gguf, GgufError> {
    Gguf::from_bytes(Bytes::from_vec(bytes), "hostile.gguf")
}

/// Use everything that can be asked of an open file.
fn exercise(gguf: &Gguf) {
    for t in gguf.tensors() {
        assert!(gguf.bytes(t).len() == t.size() && t.elements() > 0);
        let _ = (gguf.require(&t.name), gguf.f32_tensor(t), gguf.rows(t, 0..t.rows().min(4)));
        for e in [0, 3, usize::MAX] {
            let _ = gguf.expert(t, e);
        }
    }
    for (key, value) in gguf.metadata() {
        assert!(value.summary().chars().all(|c| !c.is_control()));
        let _ = (gguf.u64(key), gguf.f32(key), gguf.str(key), gguf.u64s(key), gguf.strs(key));
    }
    assert_eq!(gguf.fingerprint().len(), 16);
    if let Ok(t) = Tokenizer::from_gguf(gguf) {
        let _ = t.encode("ab<|im_end|>", true);
    }
    if let Ok(t) = ChatTemplate::from_gguf(gguf) {
        let _ = t.render(&[], rotary::events::Reasoning::default(), 0);
    }
}

fn refused(bytes: Vec<u8>) -> String {
    open(bytes).map(drop).unwrap_err().to_string()
}

#[derive(Clone, Debug)]
enum Change {
    Flip(usize, u8),
    Cut(usize),
    /// Copy a stretch over another.
    Splice(usize, usize, usize),
    /// A number that is likely to hurt, as 4 or 8 bytes.
    Number(usize, u64, bool),
}

fn change() -> impl Strategy<Value = Change> {
    let hurtful = prop_oneof![
        Just(0u64),
        Just(u64::MAX),
        Just(1 << 63),
        Just(1 << 62),
        Just(u64::from(u32::MAX)),
        Just(1 << 40),
        0u64..64,
        any::<u64>()
    ];
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, b)| Change::Flip(at, b)),
        any::<usize>().prop_map(Change::Cut),
        (any::<usize>(), any::<usize>(), 1usize..64).prop_map(|(a, b, n)| Change::Splice(a, b, n)),
        (any::<usize>(), hurtful, any::<bool>()).prop_map(|(at, n, wide)| Change::Number(at, n, wide)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let len = bytes.len();
    if len == 0 {
        return;
    }
    match *change {
        Change::Flip(at, mask) => bytes[at % len] ^= mask,
        Change::Cut(at) => bytes.truncate(at % (len + 1)),
        Change::Splice(from, to, n) => {
            let (from, to) = (from % len, to % len);
            let n = n.min(len - from.max(to));
            bytes.copy_within(from..from + n, to);
        }
        Change::Number(at, number, wide) => {
            let at = at % len;
            let number = &number.to_le_bytes()[..if wide { 8 } else { 4 }];
            let n = number.len().min(len - at);
            bytes[at..at + n].copy_from_slice(&number[..n]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn a_damaged_file_is_read_or_refused(changes in prop::collection::vec(change(), 1..5), version in 2u32..4) {
        let mut bytes = valid().version(version).to_bytes();
        // The header is where damage matters: aim most changes at it.
        for change in &changes {
            apply(&mut bytes, change);
        }
        LARGEST.with(|l| l.set(0));
        let opened = open(bytes.clone());
        let largest = LARGEST.with(Cell::get);
        prop_assert!(largest <= 64 * 1024 + 64 * bytes.len(), "an allocation of {} bytes for a file of {}", largest, bytes.len());
        match opened {
            Ok(gguf) => exercise(&gguf),
            Err(e) => prop_assert!(e.to_string().starts_with("hostile.gguf")),
        }
    }
}

#[test]
fn the_undamaged_file_is_read() {
    for version in [2, 3] {
        let gguf = open(valid().version(version).to_bytes()).unwrap();
        exercise(&gguf);
        assert_eq!(gguf.version(), version);
        assert_eq!(gguf.u64("a.u64").unwrap(), Some(u64::MAX));
        assert_eq!(gguf.f32("a.i64").unwrap(), Some(-5.0));
        let experts = gguf.require("blk.0.ffn_up_exps.weight").unwrap();
        assert_eq!(gguf.expert(experts, 3).unwrap().len(), 3 * 68);
        assert!(matches!(gguf.expert(experts, 4), Err(GgufError::OutOfRange { have: 4, .. })));
    }
}

#[test]
fn every_cut_is_refused() {
    let whole = valid().to_bytes();
    for len in 0..whole.len() - 32 {
        assert!(open(whole[..len].to_vec()).is_err(), "cut to {len} bytes");
    }
}

#[test]
fn other_kinds_of_files_are_named() {
    for (bytes, words) in [
        (&b""[..], "is empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"PK\x03\x04zip", "PyTorch"),
        (b"\x40\0\0\0\0\0\0\0{\"__metadata__\":{}}", "safetensors"),
        (b"\x1b[2Jxxxx", "\\u{1b}"),
        (b"GGUF\x01\0\0\0", "version 1"),
        (b"GGUF\0\0\0\x03", "big-endian"),
        (b"GGUF\x03\0\0", "version (at byte 4) needs 4 bytes"),
    ] {
        let why = refused(bytes.to_vec());
        assert!(why.contains(words) && why.starts_with("hostile.gguf"), "{why}");
    }
}

#[test]
fn impossible_fields_are_named() {
    let tensor = |name: &str, ty, dims: &[usize], data: usize| {
        let mut file = valid();
        file.tensor(name, ty, dims, vec![0; data]);
        file.to_bytes()
    };
    for (bytes, words) in [
        (tensor("norm.weight", GgmlType::F32, &[8], 32), "tensor norm.weight (at byte"),
        (tensor("x", GgmlType::Q4K, &[100], 144), "not a whole number of q4_K blocks"),
        (tensor("x", GgmlType::F32, &[0], 0), "dimension 0 is 0"),
        (tensor("x", GgmlType::F32, &[1 << 40, 1 << 40], 0), "number of elements"),
        (tensor("x", GgmlType::F32, &[1 << 40], 0), "cut off or damaged"),
        (tensor("x", GgmlType::F32, &[1, 1, 1, 1, 1], 4), "number of dimensions"),
        (tensor("", GgmlType::F32, &[1], 4), "it is empty"),
        (tensor(&"n".repeat(300), GgmlType::F32, &[1], 4), "the length is 300"),
        (valid().with("general.alignment", 48u32).to_bytes(), "not a power of two"),
        (valid().with("general.alignment", "no").to_bytes(), "should be an unsigned integer"),
    ] {
        let why = refused(bytes);
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn overlapping_tensors_are_refused() {
    let mut file = Writer::empty();
    // The second tensor's data is written short, so the third begins inside it.
    file.f32_tensor("one", &[8], &[0.0; 8]);
    file.tensor("two", GgmlType::F32, &[64], vec![0; 32]);
    file.tensor("three", GgmlType::F32, &[64], vec![0; 256]);
    let why = refused(file.to_bytes());
    assert!(why.contains("tensor three") && why.contains("overlaps tensor two"), "{why}");
}

#[test]
fn a_type_that_is_not_known_is_refused_only_when_needed() {
    let mut file = valid();
    file.tensor("odd", GgmlType::Unknown(99), &[10], vec![1; 40]);
    file.f32_tensor("after", &[2], &[1.0, 2.0]);
    let gguf = open(file.to_bytes()).unwrap();
    assert_eq!(gguf.f32_tensor(gguf.require("after").unwrap()).unwrap(), [1.0, 2.0]);
    assert_eq!(gguf.tensor("odd").unwrap().size(), 64, "bounded by the tensor that follows");
    let why = gguf.require("odd").unwrap_err().to_string();
    assert!(why.contains("tensor odd has unknown type 99"), "{why}");
}

#[test]
fn paths_that_are_no_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Gguf::open(folder.path()), Err(GgufError::NotAFile { .. })));
    assert!(matches!(Gguf::open(&folder.path().join("none.gguf")), Err(GgufError::Open { .. })));
    assert!(matches!(Gguf::open(Path::new("/dev/null")), Err(GgufError::NotAFile { .. })));
    let empty = folder.path().join("empty.gguf");
    std::fs::write(&empty, b"").unwrap();
    assert!(matches!(Gguf::open(&empty), Err(GgufError::Empty { .. })));
}

#[test]
fn any_part_of_a_split_set_opens_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let paths = valid().save_split(folder.path(), "m", 3).unwrap();
    for path in &paths {
        let gguf = Gguf::open(path).unwrap();
        exercise(&gguf);
        assert_eq!((gguf.paths(), gguf.tensors().count()), (paths.as_slice(), 3));
        assert_eq!(gguf.arch().unwrap(), "qwen3moe");
        let whole = open(valid().to_bytes()).unwrap();
        for t in whole.tensors() {
            assert_eq!(&*gguf.bytes(gguf.tensor(&t.name).unwrap()), &*whole.bytes(t));
        }
    }
    let lone = folder.path().join("renamed.gguf");
    std::fs::copy(&paths[0], &lone).unwrap();
    assert!(Gguf::open(&lone).unwrap_err().to_string().contains("does not end in -00001-of-00003.gguf"));
    std::fs::copy(&paths[0], &paths[1]).unwrap();
    assert!(Gguf::open(&paths[0]).unwrap_err().to_string().contains("split.no is 0"));
    std::fs::remove_file(&paths[1]).unwrap();
    let why = Gguf::open(&paths[2]).unwrap_err().to_string();
    assert!(why.contains("m-00002-of-00003.gguf") && why.contains("part 2 of 3"), "{why}");
}
