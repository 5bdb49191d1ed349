//! `rotary gpu-check`: every GPU kernel, in every type of weights, against its meaning, and how fast the device moves bytes.

use crate::cli::{configuration, exit, find_model, Failure};
use crate::engine::{open, EngineError};
use crate::events::{DeviceChoice, LoadOptions};
use crate::gpu::choose::choose;
use crate::gpu::device::{Device, GpuError, Lane};
use crate::gpu::trial::{self, Case};
use crate::model::proof;
use clap::Args;
use color_eyre::eyre;
use serde::Serialize;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

/// Arguments of `rotary gpu-check`.
#[derive(Debug, Args)]
pub struct GpuCheckArgs {
    /// gpu, or simulated to try the trials themselves
    #[arg(long, value_name = "NAME", default_value = "gpu", value_parser = crate::cli::device_name)]
    device: DeviceChoice,
    /// Only kernels and types whose line contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Multiplies the sizes of the products
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=16))]
    scale: u32,
    /// Only what this model uses, as it is tried before the model is opened (path, downloaded name, or demo)
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["scale", "speed"])]
    model: Option<String>,
    /// Time the kernels at the sizes of a real model instead of trying them
    #[arg(long)]
    speed: bool,
    /// One JSON object a line instead of text
    #[arg(long)]
    json: bool,
}

/// One trial.
#[derive(Serialize)]
struct Line<'a> {
    kernel: &'a str,
    about: &'a str,
    /// Largest difference, as a share of the largest number of the piece; `null` if the device failed.
    error: Option<f64>,
    failures: &'a [String],
}

/// What the device reaches, in bytes per second.
#[derive(Debug, Serialize)]
struct Speeds {
    device: String,
    capability: u32,
    memory: u64,
    /// Page-locked memory to the device, and back.
    up: f64,
    down: f64,
    /// Ordinary memory to the device.
    ordinary: f64,
    /// Within the device, read and written bytes together.
    inside: f64,
    /// Microseconds from one empty kernel to the next, and for the host to queue one.
    launch_us: f64,
    queue_us: f64,
}

/// The trials that are asked for.
fn cases(args: &GpuCheckArgs) -> eyre::Result<Vec<Case>> {
    let Some(name) = &args.model else { return Ok(trial::all(args.scale)) };
    let gguf = open::map(&find_model(name, &configuration())?).map_err(Failure::from)?;
    Ok(proof::cases(&gguf, &LoadOptions::default(), true).map_err(EngineError::from)?)
}

/// Try everything and print it. Exit code 1 if something is wrong.
pub fn run(args: &GpuCheckArgs) -> eyre::Result<ExitCode> {
    let chosen = choose(args.device).map_err(|e| Failure::failed(e.to_string()))?;
    let device = chosen.device.ok_or_else(|| Failure::usage("gpu-check tries a GPU: --device gpu, or --device simulated"))?;
    let cases = cases(args)?;
    let mut out = io::stdout().lock();
    let speeds = speeds(&*device).map_err(|e| Failure::failed(e.to_string()))?;
    if args.json {
        serde_json::to_writer(&mut out, &speeds).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        let gb = |b: f64| b / 1e9;
        let (major, minor) = (speeds.capability / 10, speeds.capability % 10);
        writeln!(out, "{}, capability {major}.{minor}, {}", speeds.device, crate::size::size(speeds.memory))?;
        writeln!(
            out,
            "GB/s: {:.1} up, {:.1} down, {:.1} up from ordinary memory, {:.0} inside",
            gb(speeds.up),
            gb(speeds.down),
            gb(speeds.ordinary),
            gb(speeds.inside)
        )?;
        writeln!(out, "launches: {:.1} us each on the device, {:.1} us for the host", speeds.launch_us, speeds.queue_us)?;
    }
    if args.speed {
        return timed(args, &*device, &mut out);
    }
    let (mut tried, mut wrong) = (0, 0);
    let begin = Instant::now();
    for case in cases {
        let t = case.trial();
        let names = t.kernels().join(" + ");
        if args.only.as_ref().is_some_and(|only| !format!("{names} {}", t.about).contains(only.as_str())) {
            continue;
        }
        tried += 1;
        let outcome = t.run(&*device);
        let (error, failures) = match &outcome {
            Ok(o) => (Some(o.error), o.failures.clone()),
            Err(e) => (None, vec![e.to_string()]),
        };
        wrong += usize::from(!failures.is_empty());
        if args.json {
            serde_json::to_writer(&mut out, &Line { kernel: &names, about: &t.about, error, failures: &failures })
                .map_err(io::Error::from)?;
            writeln!(out)?;
        } else {
            let error = error.map_or_else(|| "-".into(), |e| format!("{e:.1e}"));
            let mark = if failures.is_empty() { "ok" } else { "WRONG" };
            writeln!(out, "{mark:<5} {error:>8}  {names:<26} {}", t.about)?;
            for f in &failures {
                writeln!(out, "                {f}")?;
            }
        }
        // A device that has failed once answers nothing but errors.
        if matches!(outcome, Err(GpuError::Driver { .. })) {
            break;
        }
    }
    if !args.json {
        writeln!(out, "{tried} trials, {wrong} wrong, in {} ms", begin.elapsed().as_millis())?;
    }
    Ok(ExitCode::from(if wrong > 0 || tried == 0 { exit::FAILED } else { 0 }))
}

/// A line per timed kernel.
fn timed(args: &GpuCheckArgs, device: &dyn Device, out: &mut impl Write) -> eyre::Result<ExitCode> {
    let mut written = Ok(());
    let done = trial::measure(device, args.only.as_deref().unwrap_or(""), &mut |t| {
        let line = if args.json {
            serde_json::to_string(t).unwrap_or_default()
        } else {
            let (gb, tera) = (t.bytes_per_s / 1e9, t.flops / 1e12);
            format!("{:>9.1} us {gb:>7.0} GB/s {tera:>7.2} TFLOP/s  {:<12} {}", t.us, t.kernel, t.about)
        };
        if written.is_ok() {
            written = writeln!(out, "{line}");
        }
    });
    done.map_err(|e| Failure::failed(e.to_string()))?;
    written?;
    Ok(ExitCode::SUCCESS)
}

/// Bytes of the copies that are timed: larger than a cache, small against any GPU.
const BYTES: usize = 64 << 20;
const ROUNDS: u32 = 5;

fn speeds(device: &dyn Device) -> Result<Speeds, GpuError> {
    use crate::gpu::params::{self, Add};
    let (from, to) = (device.alloc(BYTES)?, device.alloc(BYTES)?);
    let pinned = device.pinned(BYTES)?;
    let ordinary = vec![1u8; BYTES];
    device.clear(Lane::Compute, from.address(), BYTES)?;
    device.clear(Lane::Compute, to.address(), BYTES)?;
    // The best of a few: other programs only ever add time.
    let time = |lane: Lane, work: &dyn Fn() -> Result<(), GpuError>| -> Result<f64, GpuError> {
        let mut best = f64::MAX;
        for _ in 0..ROUNDS {
            device.sync(&device.mark(lane)?)?;
            let (clock, begin) = (Instant::now(), device.mark(lane)?);
            work()?;
            let end = device.mark(lane)?;
            device.sync(&end)?;
            let seconds = device.between(&begin, &end).map_or_else(|| clock.elapsed().as_secs_f64(), |us| us / 1e6);
            best = best.min(seconds);
        }
        Ok(best.max(1e-9))
    };
    let bytes = BYTES as f64;
    let up = bytes / time(Lane::Copy, &|| device.upload(Lane::Copy, from.address(), &pinned, 0..BYTES))?;
    let down = bytes / time(Lane::Copy, &|| device.download(Lane::Copy, from.address(), &pinned, 0..BYTES))?;
    let ordinary = bytes / time(Lane::Copy, &|| device.upload_now(Lane::Copy, from.address(), &ordinary))?;
    device.wait(Lane::Compute, &device.mark(Lane::Copy)?)?;
    let inside = 2.0 * bytes / time(Lane::Compute, &|| device.copy(Lane::Compute, from.address(), to.address(), BYTES))?;
    let add = Add { x: from.address(), y: to.address(), len: 32, pad: 0 };
    const LAUNCHES: u32 = 200;
    let queue = std::cell::Cell::new(f64::MAX);
    let many = time(Lane::Compute, &|| {
        let clock = Instant::now();
        for _ in 0..LAUNCHES {
            params::launch(device, &add, &[])?;
        }
        queue.set(queue.get().min(clock.elapsed().as_secs_f64()));
        Ok(())
    })?;
    let facts = device.facts();
    let us = |seconds: f64| seconds * 1e6 / f64::from(LAUNCHES);
    Ok(Speeds {
        device: facts.name.clone(),
        capability: facts.capability,
        memory: facts.memory,
        up,
        down,
        ordinary,
        inside,
        launch_us: us(many),
        queue_us: us(queue.get()),
    })
}
