//! Compiles the GPU kernels. Without the feature `cuda` this does nothing; with it, it needs nvcc and no GPU.
//!
//! Out comes one fat binary: machine code of every GPU generation that the toolkit knows from Turing on, and portable
//! code that the driver of a newer one translates. The environment can say which nvcc (`ROTARY_NVCC`, else `NVCC`, else
//! under `CUDA_HOME` or `CUDA_PATH`, else from `PATH`) and for which generations (`ROTARY_CUDA_ARCHS="80 90"`).

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Generations to compile for: one per family whose code does not run on the one before or gains from its own.
const GENERATIONS: [u32; 7] = [75, 80, 86, 89, 90, 100, 120];
/// What the portable code may assume; a GPU that is in no family above translates it when it first loads the kernels.
const PORTABLE: u32 = 80;
/// Libraries that the CUDA bindings name to the linker. `src/gpu/driver.rs` defines all that is called of them.
const NOT_LINKED: [&str; 6] = ["cuda", "cudart", "cublas", "cublasLt", "curand", "nvrtc"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo gives no OUT_DIR")?);
    println!("cargo::rerun-if-changed=src/gpu/kernels");
    for name in ["ROTARY_NVCC", "NVCC", "CUDA_HOME", "CUDA_PATH", "ROTARY_CUDA_ARCHS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    // An archive without members satisfies `-l`, whether or not the toolkit at hand has the library.
    for name in NOT_LINKED {
        fs::write(out.join(format!("lib{name}.a")), "!<arch>\n")?;
    }
    println!("cargo::rustc-link-search=native={}", out.display());

    let nvcc = find_nvcc()?;
    let known = known_generations(&nvcc)?;
    let wanted = wanted_generations()?;
    let mut codes: Vec<String> =
        wanted.iter().filter(|g| known.is_empty() || known.contains(g)).map(|g| format!("-gencode=arch=compute_{g},code=sm_{g}")).collect();
    let portable =
        if wanted.iter().any(|&g| g <= PORTABLE) { PORTABLE } else { *wanted.iter().min().ok_or("no GPU generation is asked for")? };
    codes.push(format!("-gencode=arch=compute_{portable},code=compute_{portable}"));
    let made = out.join("rotary.fatbin");
    let status = Command::new(&nvcc)
        .args(["-fatbin", "-O3", "-std=c++17", "--threads", "0", "-o"])
        .arg(&made)
        .args(&codes)
        .arg("src/gpu/kernels/rotary.cu")
        .status()
        .map_err(|e| format!("{} can't be run: {e}", nvcc.display()))?;
    if !status.success() {
        return Err(format!("{} failed on src/gpu/kernels/rotary.cu ({status}); its messages are above", nvcc.display()).into());
    }
    println!("cargo::rustc-env=ROTARY_NVCC_RELEASE={}", release(&nvcc)?);
    println!("cargo::rustc-env=ROTARY_KERNELS={:016x}", hash(&fs::read(&made)?));
    Ok(())
}

/// FNV-1a, 64 bits: tells these kernels from those of another build.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

fn find_nvcc() -> Result<PathBuf, Box<dyn Error>> {
    let var = |name| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    // Paths are taken from the repository's root: where cargo runs this.
    if let Some(path) = var("ROTARY_NVCC").or_else(|| var("NVCC")) {
        return if path.is_file() { Ok(path) } else { Err(format!("NVCC names {}, which is no file", path.display()).into()) };
    }
    let on_path = var("PATH").into_iter().flat_map(|p| env::split_paths(&p).map(|d| d.join("nvcc")).collect::<Vec<_>>());
    let places = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(var).map(|home| home.join("bin/nvcc"));
    let usual = ["/usr/local/cuda/bin/nvcc", "/opt/cuda/bin/nvcc"].into_iter().map(PathBuf::from);
    places.chain(on_path).chain(usual).find(|p| p.is_file()).ok_or_else(|| {
        "the feature `cuda` needs nvcc, and there is none under CUDA_HOME, on PATH or in /usr/local/cuda: install the CUDA toolkit \
         (12.0 or newer) and set CUDA_HOME to its folder; docs/gpu.md has a way without root"
            .into()
    })
}

fn output(nvcc: &Path, argument: &str) -> Result<String, Box<dyn Error>> {
    let out = Command::new(nvcc).arg(argument).output().map_err(|e| format!("{} can't be run: {e}", nvcc.display()))?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Empty if the toolkit can't tell.
fn known_generations(nvcc: &Path) -> Result<Vec<u32>, Box<dyn Error>> {
    Ok(output(nvcc, "--list-gpu-code")?.split_whitespace().filter_map(|w| w.strip_prefix("sm_")?.parse().ok()).collect())
}

fn wanted_generations() -> Result<Vec<u32>, Box<dyn Error>> {
    let Ok(list) = env::var("ROTARY_CUDA_ARCHS") else { return Ok(GENERATIONS.to_vec()) };
    list.split([' ', ',', ';'])
        .filter(|w| !w.is_empty())
        .map(|w| w.parse().map_err(|_| format!("ROTARY_CUDA_ARCHS: {w} is no generation; write numbers such as 80 or 120").into()))
        .collect()
}

/// "13.0", of "Cuda compilation tools, release 13.0, V13.0.88".
fn release(nvcc: &Path) -> Result<String, Box<dyn Error>> {
    let text = output(nvcc, "--version")?;
    Ok(text.split_once("release ").and_then(|(_, rest)| rest.split(',').next()).unwrap_or("unknown").trim().to_owned())
}
