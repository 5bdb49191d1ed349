//! `rotary pull`: fetch a model file from the hub by name. The only code that ever touches the network.
//!
//! A download goes into `FILE.part` and gets its name only when its length, and its SHA-256 where the hub publishes one,
//! are right. A cut download goes on where it was cut, if the file on the hub is still the same.

use crate::gguf::{shown, split_name};
use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Cache, Repo, RepoType};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Why a download failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PullError {
    /// A name that is not a repository or a file of one.
    #[error("{name:?} is not {what}; write: rotary pull OWNER/REPO FILE.gguf")]
    Name { name: String, what: &'static str },
    /// No way to the hub.
    #[error("{host} can't be reached ({why}); `rotary pull` needs a network, everything else works without one")]
    NoNetwork { host: String, why: String },
    /// The hub knows no such file.
    #[error("the hub has no file {file} in {repo}; check both names (they are case-sensitive)")]
    NotFound { repo: String, file: String },
    /// The hub wants a token, or another one.
    #[error("the hub refuses {repo} (status {status}); it is private or wants its licence accepted: set HF_TOKEN, or log in with the hub's own tool")]
    Denied { repo: String, status: u16 },
    /// The hub failed.
    #[error("the hub answered {status} for {file}; try again later")]
    Status { file: String, status: u16 },
    /// An answer that makes no sense.
    #[error("the hub's answer for {file} can't be used: {why}")]
    Answer { file: String, why: String },
    /// The connection broke.
    #[error("the download of {file} was cut after {done} of {size} bytes ({why}); run the same command again to go on from there")]
    Cut { file: String, done: u64, size: u64, why: String },
    /// Other bytes than the hub promised.
    #[error("{file} arrived damaged: its SHA-256 is {found}, the hub says {want}; it was removed, run the same command again")]
    Checksum { file: String, want: String, found: String },
    /// The disk said no.
    #[error("{}: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
}

/// What to fetch, and where to.
#[derive(Clone, Debug)]
pub struct Pull {
    /// Base address of the hub.
    pub endpoint: String,
    /// Access token, for private or gated models.
    pub token: Option<String>,
    /// `OWNER/REPO`.
    pub repo: String,
    /// A `.gguf` file of it; any part of a split set stands for the whole set.
    pub file: String,
    /// The folder of all models.
    pub models: PathBuf,
    /// How long the server may send nothing before the connection counts as dead.
    pub stall: Duration,
}

/// The usual [`Pull::stall`].
const STALL: Duration = Duration::from_secs(30);

/// How a download goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Progress {
    /// A file begins (or goes on at `done`).
    File { name: String, done: u64, size: u64 },
    /// Bytes on disk.
    Bytes { done: u64, size: u64 },
    /// The connection broke or went silent; it is tried once more from here.
    Again { done: u64, why: String },
    /// All bytes are here; the checksum is computed.
    Checking,
    /// The file is complete. `verified` is false if the hub publishes no checksum for it.
    Done { path: PathBuf, verified: bool },
    /// The file was there already.
    Present { path: PathBuf },
}

impl Pull {
    /// From the public hub (or `HF_ENDPOINT`), with the token of `HF_TOKEN` or of the hub's own tool.
    #[must_use]
    pub fn new(repo: &str, file: &str, models: &Path) -> Self {
        let endpoint = std::env::var("HF_ENDPOINT").ok().filter(|e| !e.is_empty());
        let token = std::env::var("HF_TOKEN").ok().filter(|t| !t.is_empty()).or_else(|| Cache::from_env().token());
        Self {
            endpoint: endpoint.unwrap_or_else(|| "https://huggingface.co".into()),
            token,
            repo: repo.into(),
            file: file.into(),
            models: models.into(),
            stall: STALL,
        }
    }

    /// Fetch the file, or all parts of its set. Returns the first path, the one to open.
    pub fn run(&self, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf, PullError> {
        check_repo(&self.repo)?;
        check_file(&self.file)?;
        let folder = self.models.join(&self.repo);
        let mut first = None;
        for file in set(&self.file) {
            let path = self.fetch(&file, &folder.join(&file), progress)?;
            first.get_or_insert(path);
        }
        Ok(first.unwrap_or_else(|| folder.join(&self.file)))
    }

    fn fetch(&self, file: &str, path: &Path, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf, PullError> {
        let disk = |source| PullError::Disk { path: path.into(), source };
        let remote = self.ask(file)?;
        if path.metadata().is_ok_and(|m| m.is_file() && m.len() == remote.size) {
            progress(Progress::Present { path: path.into() });
            return Ok(path.into());
        }
        fs::create_dir_all(path.parent().unwrap_or(path)).map_err(disk)?;
        let part = beside(path, "part");
        let mark = beside(path, "part.etag");
        // What is there belongs to another version of the file: begin anew.
        if fs::read_to_string(&mark).ok().as_deref() != Some(remote.etag.as_str()) {
            let _ = fs::remove_file(&part);
            fs::write(&mark, &remote.etag).map_err(disk)?;
        }
        let mut out = OpenOptions::new().create(true).read(true).append(true).open(&part).map_err(disk)?;
        if out.metadata().map_err(disk)?.len() > remote.size {
            out.set_len(0).map_err(disk)?;
        }
        let done = out.metadata().map_err(disk)?.len();
        progress(Progress::File { name: file.into(), done, size: remote.size });
        self.transfer(file, &remote, &mut out, progress).map_err(|e| match e {
            Stop::Disk(e) => disk(e),
            Stop::Pull(e) => e,
        })?;
        if let Some(want) = &remote.sha256 {
            progress(Progress::Checking);
            let found = sha256(&mut out).map_err(disk)?;
            if found != *want {
                drop(out);
                let _ = fs::remove_file(&part);
                return Err(PullError::Checksum { file: file.into(), want: want.clone(), found });
            }
        }
        out.sync_all().map_err(disk)?;
        fs::rename(&part, path).map_err(disk)?;
        let _ = fs::remove_file(&mark);
        progress(Progress::Done { path: path.into(), verified: remote.sha256.is_some() });
        Ok(path.into())
    }

    /// Get what is missing of a file, going on after cuts as long as each try gets further.
    fn transfer(&self, file: &str, remote: &Remote, out: &mut File, progress: &mut dyn FnMut(Progress)) -> Result<(), Stop> {
        let agent = agent(10, self.stall);
        let mut buffer = vec![0; 1 << 18];
        let mut done = out.metadata()?.len();
        let mut last_start = None;
        while done < remote.size {
            let cut = |why: String| Stop::Pull(PullError::Cut { file: file.into(), done, size: remote.size, why });
            if last_start == Some(done) {
                return Err(cut("no byte arrived".into()));
            }
            last_start = Some(done);
            let mut request = agent.get(&remote.url).header("Range", format!("bytes={done}-"));
            if let Some(token) = &self.token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|e| cut(e.to_string()))?;
            match response.status().as_u16() {
                206 => {
                    let range = response.headers().get("content-range").and_then(|v| v.to_str().ok()).unwrap_or_default();
                    if !range.starts_with(&format!("bytes {done}-")) {
                        let why = format!("asked for bytes from {done} on, got {:?}", shown(range));
                        return Err(Stop::Pull(PullError::Answer { file: file.into(), why }));
                    }
                }
                // The whole file again: the server knows no ranges.
                200 => {
                    out.set_len(0)?;
                    done = 0;
                }
                status => return Err(Stop::Pull(PullError::Status { file: file.into(), status })),
            }
            let mut body = response.into_body().into_reader();
            loop {
                match body.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) if done + n as u64 > remote.size => {
                        let why = format!("more than the announced {} bytes came", remote.size);
                        return Err(Stop::Pull(PullError::Answer { file: file.into(), why }));
                    }
                    Ok(n) => {
                        out.write_all(&buffer[..n])?;
                        done += n as u64;
                        progress(Progress::Bytes { done, size: remote.size });
                    }
                    Err(e) => {
                        let why =
                            if is_timeout(&e) { format!("the server sent nothing for {}", seconds(self.stall)) } else { e.to_string() };
                        if last_start.is_none_or(|start| done <= start) {
                            return Err(Stop::Pull(PullError::Cut { file: file.into(), done, size: remote.size, why }));
                        }
                        progress(Progress::Again { done, why });
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Where the file is, how long, and its checksum.
    fn ask(&self, file: &str) -> Result<Remote, PullError> {
        let answer = |why: String| PullError::Answer { file: file.into(), why };
        let api = ApiBuilder::new().with_endpoint(self.endpoint.clone()).with_token(None).build().map_err(|e| answer(e.to_string()))?;
        let mut url = api.repo(Repo::new(self.repo.clone(), RepoType::Model)).url(file);
        let agent = agent(0, self.stall);
        for _ in 0..5 {
            let mut request = agent.head(&url);
            if let Some(token) = &self.token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|e| match e {
                ureq::Error::BadUri(why) => answer(why),
                other => PullError::NoNetwork { host: host(&self.endpoint).into(), why: other.to_string() },
            })?;
            let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(|v| v.trim_matches('"').to_owned());
            let status = response.status().as_u16();
            let location = header("location").unwrap_or_default();
            match status {
                // A renamed repository answers with a path on the same host; storage is another host.
                301 | 302 | 307 | 308 if location.starts_with('/') && !location.starts_with("//") && header("x-linked-size").is_none() => {
                    url = format!("{}{location}", self.endpoint.trim_end_matches('/'));
                    continue;
                }
                200 | 301 | 302 | 307 | 308 => {}
                404 => return Err(PullError::NotFound { repo: self.repo.clone(), file: file.into() }),
                401 | 403 => return Err(PullError::Denied { repo: self.repo.clone(), status }),
                status => return Err(PullError::Status { file: file.into(), status }),
            }
            let etag = header("x-linked-etag").or_else(|| header("etag")).ok_or_else(|| answer("it has no etag".into()))?;
            let size = header("x-linked-size").or_else(|| header("content-length").filter(|_| status == 200));
            let size = size.and_then(|s| s.parse().ok()).ok_or_else(|| answer("it has no size".into()))?;
            let is_sha256 = etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit());
            return Ok(Remote { url, size, sha256: is_sha256.then(|| etag.to_ascii_lowercase()), etag });
        }
        Err(answer("it redirects without end".into()))
    }
}

/// Progress for people: a line that overwrites itself at most four times a second. `last` is kept by the caller.
#[must_use]
pub fn line(progress: &Progress, last: &mut Option<Instant>) -> Option<String> {
    match progress {
        Progress::File { name, done: 0, size } => Some(format!("{name}: {}\n", crate::size::size(*size))),
        Progress::File { name, done, size } => {
            Some(format!("{name}: {}, going on at {}\n", crate::size::size(*size), crate::size::size(*done)))
        }
        Progress::Bytes { done, size } => {
            if done < size && last.is_some_and(|at| at.elapsed() < Duration::from_millis(250)) {
                return None;
            }
            *last = Some(Instant::now());
            let percent = *done as f64 * 100.0 / (*size).max(1) as f64;
            Some(format!("\r{percent:5.1} %  {} ", crate::size::size(*done)))
        }
        Progress::Again { done, why } => Some(format!("\n{why}; going on at {}\n", crate::size::size(*done))),
        Progress::Checking => Some("\nchecking\n".into()),
        Progress::Done { path, verified: true } => Some(format!("{}: complete, SHA-256 is right\n", path.display())),
        Progress::Done { path, verified: false } => Some(format!("\n{}: complete; the hub publishes no checksum for it\n", path.display())),
        Progress::Present { path } => Some(format!("{}: already there\n", path.display())),
    }
}

/// One file on the hub.
struct Remote {
    url: String,
    etag: String,
    size: u64,
    sha256: Option<String>,
}

enum Stop {
    Pull(PullError),
    Disk(io::Error),
}

impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Self {
        Self::Disk(e)
    }
}

/// Redirects to another host lose the access token, which is ureq's default.
fn agent(redirects: u32, stall: Duration) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_resolve(Some(Duration::from_secs(5)))
        .timeout_connect(Some(Duration::from_secs(5)))
        .timeout_recv_response(Some(stall))
        .timeout_per_read(Some(stall))
        .max_redirects(redirects)
        .max_redirects_will_error(redirects > 0)
        .http_status_as_error(false)
        .user_agent(concat!("rotary/", env!("CARGO_PKG_VERSION")))
        .build();
    ureq::Agent::new_with_config(config)
}

fn host(endpoint: &str) -> &str {
    endpoint.split("://").last().unwrap_or(endpoint).split('/').next().unwrap_or(endpoint)
}

fn is_timeout(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<ureq::Error>());
    error.kind() == io::ErrorKind::TimedOut || matches!(inner, Some(ureq::Error::Timeout(_)))
}

/// "30 s", "0.3 s".
fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(end);
    path.with_file_name(name)
}

fn sha256(file: &mut File) -> io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect());
        }
        hash.update(&buffer[..n]);
    }
}

/// All files of the split set that `file` belongs to; itself, if it is whole.
fn set(file: &str) -> Vec<String> {
    let (folder, name) = file.rsplit_once('/').map_or(("", file), |(f, n)| (f, n));
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    match split_name(name) {
        Some((stem, _, of)) if (2..=4096).contains(&of) => (1..=of).map(|i| format!("{prefix}{stem}-{i:05}-of-{of:05}.gguf")).collect(),
        _ => vec![file.to_owned()],
    }
}

/// A part of a path that can do no harm: letters, digits, `.`, `_`, `-`, `+`; not hidden, not `..`.
fn is_plain(segment: &str) -> bool {
    !segment.is_empty()
        && segment.len() <= 200
        && !segment.starts_with('.')
        && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b))
}

fn check_repo(repo: &str) -> Result<(), PullError> {
    let segments: Vec<&str> = repo.split('/').collect();
    if segments.len() == 2 && segments.iter().all(|s| is_plain(s)) {
        return Ok(());
    }
    Err(PullError::Name { name: shown(repo), what: "a repository name (OWNER/REPO)" })
}

fn check_file(file: &str) -> Result<(), PullError> {
    if file.ends_with(".gguf") && file.split('/').count() <= 2 && file.split('/').all(is_plain) {
        return Ok(());
    }
    Err(PullError::Name { name: shown(file), what: "the name of a .gguf file in a repository" })
}

#[cfg(test)]
#[path = "pull_tests.rs"]
mod tests;
