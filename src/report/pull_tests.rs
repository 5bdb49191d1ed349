use super::*;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A hub on the loopback: one file, its etag, and how many bytes it sends before it cuts each connection.
struct Hub {
    endpoint: String,
    requests: Arc<Mutex<Vec<String>>>,
}

fn serve(content: Vec<u8>, etag: String, cut_after: usize, ranges: bool) -> Hub {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let log = requests.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = answer(stream.unwrap(), &content, &etag, cut_after, ranges, &log);
        }
    });
    Hub { endpoint, requests }
}

fn answer(mut stream: TcpStream, content: &[u8], etag: &str, cut_after: usize, ranges: bool, log: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut from = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            from = range.trim().trim_end_matches('-').parse().unwrap_or(0);
        }
        if line.trim().is_empty() {
            break;
        }
    }
    log.lock().unwrap().push(format!("{} {from}", request.split(' ').take(2).collect::<Vec<_>>().join(" ")));
    if !request.contains("/o/r/resolve/main/") {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    if !ranges {
        from = 0;
    }
    let body = &content[from.min(content.len())..];
    let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nETag: \"{etag}\"\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{}\r\nConnection: close\r\n\r\n",
        body.len(),
        content.len().saturating_sub(1),
        content.len()
    )?;
    if request.starts_with("HEAD") {
        return Ok(());
    }
    stream.write_all(&body[..body.len().min(cut_after)])
}

fn content() -> Vec<u8> {
    (0..100_000u32).map(|i| (i * 7 % 251) as u8).collect()
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn pull(hub: &str, file: &str, models: &Path) -> Result<PathBuf, PullError> {
    let pull = Pull { endpoint: hub.into(), token: None, repo: "o/r".into(), file: file.into(), models: models.into(), stall: STALL };
    pull.run(&mut |_| ())
}

/// A hub that promises the content, sends `sends` bytes to each GET, and then holds the connection open in silence.
fn serve_and_fall_silent(content: Vec<u8>, sends: usize) -> Hub {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let log = requests.clone();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            held.push(stream.try_clone().unwrap());
            let _ = answer(stream, &content, &hash(&content), sends, true, &log);
        }
    });
    Hub { endpoint, requests }
}

#[test]
fn a_server_that_falls_silent_is_given_up_with_a_clear_error_and_the_rest_is_fetched_later() {
    let models = tempfile::tempdir().unwrap();
    let silent = serve_and_fall_silent(content(), 30_000);
    let pull = Pull {
        endpoint: silent.endpoint.clone(),
        token: None,
        stall: Duration::from_millis(300),
        ..Pull::new("o/r", "m.gguf", models.path())
    };
    // Each connection gives 30 000 bytes, so the fourth gets the last 10 000; with nothing new to give it ends.
    let mut again = Vec::new();
    let path = pull
        .run(&mut |p| {
            if let Progress::Again { done, why } = p {
                again.push((done, why))
            }
        })
        .unwrap();
    assert_eq!(fs::read(path).unwrap(), content());
    assert_eq!(again.iter().map(|(done, _)| *done).collect::<Vec<_>>(), [30_000, 60_000, 90_000]);
    assert!(again[0].1.contains("sent nothing for 0.3 s"), "{again:?}");

    // A server that sends nothing at all after its header.
    let models = tempfile::tempdir().unwrap();
    let silent = serve_and_fall_silent(content(), 0);
    let folder = models.path().join("o/r");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("m.gguf.part"), &content()[..40_000]).unwrap();
    fs::write(folder.join("m.gguf.part.etag"), hash(&content())).unwrap();
    let pull = Pull { endpoint: silent.endpoint.clone(), models: models.path().into(), ..pull };
    let start = std::time::Instant::now();
    let failed = pull.run(&mut |_| ()).unwrap_err().to_string();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    for part in ["m.gguf", "40000 of 100000", "sent nothing for 0.3 s", "run the same command again"] {
        assert!(failed.contains(part), "{failed:?} lacks {part:?}");
    }
    let well = serve(content(), hash(&content()), usize::MAX, true);
    let path = Pull { endpoint: well.endpoint.clone(), ..pull }.run(&mut |_| ()).unwrap();
    assert_eq!(fs::read(path).unwrap(), content());
    assert!(well.requests.lock().unwrap().iter().any(|r| r.ends_with(" 40000")), "it went on where it was");
}

#[test]
fn a_file_arrives_whole_and_is_not_fetched_twice() {
    let models = tempfile::tempdir().unwrap();
    let hub = serve(content(), hash(&content()), usize::MAX, true);
    let path = pull(&hub.endpoint, "m.gguf", models.path()).unwrap();
    assert_eq!(path, models.path().join("o/r/m.gguf"));
    assert_eq!(fs::read(&path).unwrap(), content());
    pull(&hub.endpoint, "m.gguf", models.path()).unwrap();
    let gets = hub.requests.lock().unwrap().iter().filter(|r| r.starts_with("GET")).count();
    assert_eq!(gets, 1);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_cut_download_goes_on_where_it_was_cut() {
    let models = tempfile::tempdir().unwrap();
    let hub = serve(content(), hash(&content()), 30_000, true);
    let path = pull(&hub.endpoint, "m.gguf", models.path()).unwrap();
    assert_eq!(fs::read(path).unwrap(), content());
    let log = hub.requests.lock().unwrap();
    assert!(log.iter().any(|r| r.ends_with(" 30000")) && log.iter().any(|r| r.ends_with(" 90000")), "{log:?}");
}

#[test]
fn a_later_run_goes_on_unless_the_file_has_changed() {
    let models = tempfile::tempdir().unwrap();
    let folder = models.path().join("o/r");
    fs::create_dir_all(&folder).unwrap();
    let hub = serve(content(), hash(&content()), usize::MAX, true);
    fs::write(folder.join("m.gguf.part"), &content()[..40_000]).unwrap();
    fs::write(folder.join("m.gguf.part.etag"), hash(&content())).unwrap();
    pull(&hub.endpoint, "m.gguf", models.path()).unwrap();
    assert!(hub.requests.lock().unwrap().iter().any(|r| r.ends_with(" 40000")));

    fs::write(folder.join("n.gguf.part"), b"another version").unwrap();
    fs::write(folder.join("n.gguf.part.etag"), "old").unwrap();
    let path = pull(&hub.endpoint, "n.gguf", models.path()).unwrap();
    assert_eq!(fs::read(path).unwrap(), content());
}

#[test]
fn a_server_without_ranges_begins_anew() {
    let models = tempfile::tempdir().unwrap();
    let folder = models.path().join("o/r");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("m.gguf.part"), &content()[..40_000]).unwrap();
    fs::write(folder.join("m.gguf.part.etag"), hash(&content())).unwrap();
    let hub = serve(content(), hash(&content()), usize::MAX, false);
    assert_eq!(fs::read(pull(&hub.endpoint, "m.gguf", models.path()).unwrap()).unwrap(), content());
}

#[test]
fn wrong_bytes_are_never_given_the_name() {
    let models = tempfile::tempdir().unwrap();
    let hub = serve(content(), hash(b"something else"), usize::MAX, true);
    let failed = pull(&hub.endpoint, "m.gguf", models.path()).unwrap_err();
    assert!(matches!(failed, PullError::Checksum { .. }), "{failed}");
    assert!(!models.path().join("o/r/m.gguf").exists() && !models.path().join("o/r/m.gguf.part").exists());
}

#[test]
fn all_parts_of_a_split_set_are_fetched() {
    let models = tempfile::tempdir().unwrap();
    let hub = serve(content(), hash(&content()), usize::MAX, true);
    let first = pull(&hub.endpoint, "q4/m-00002-of-00003.gguf", models.path()).unwrap();
    assert!(first.ends_with("o/r/q4/m-00001-of-00003.gguf"));
    assert!((1..=3).all(|i| models.path().join(format!("o/r/q4/m-{i:05}-of-00003.gguf")).exists()));
}

#[test]
fn without_a_network_it_fails_at_once() {
    let models = tempfile::tempdir().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let start = std::time::Instant::now();
    let failed = pull(&format!("http://{closed}"), "m.gguf", models.path()).unwrap_err();
    assert!(matches!(&failed, PullError::NoNetwork { host, .. } if *host == closed.to_string()), "{failed}");
    assert!(start.elapsed() < Duration::from_secs(6));
}

#[test]
fn names_that_would_leave_the_folder_are_refused() {
    let models = tempfile::tempdir().unwrap();
    for file in ["../m.gguf", "/etc/m.gguf", "a/../m.gguf", "m.bin", ".gguf", "a\\b.gguf", "", "a b.gguf", "x\n.gguf"] {
        assert!(matches!(pull("http://127.0.0.1:9", file, models.path()), Err(PullError::Name { .. })), "{file}");
    }
    for repo in ["o", "o/r/x", "../r", "o/..", "/r", "o/", "o/r?x"] {
        let pull = Pull { repo: repo.into(), ..Pull::new("o/r", "m.gguf", models.path()) };
        assert!(matches!(pull.run(&mut |_| ()), Err(PullError::Name { .. })), "{repo}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let models = tempfile::tempdir().unwrap();
    let hub = serve(content(), String::new(), usize::MAX, true);
    let pull = Pull { repo: "x/y".into(), endpoint: hub.endpoint, token: None, ..Pull::new("x/y", "m.gguf", models.path()) };
    let failed = pull.run(&mut |_| ()).unwrap_err();
    assert!(matches!(&failed, PullError::NotFound { repo, file } if repo == "x/y" && file == "m.gguf"), "{failed}");
}
