//! Editing the input in the person's own editor.

use std::io::{Read, Write};
use std::process::Command;

/// Larger texts are not taken back.
const MAX_TEXT: u64 = super::composer::MAX_INPUT as u64;

/// The editor: `$VISUAL`, else `$EDITOR`, else `vi`.
fn command() -> String {
    let set = |name| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
    set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| "vi".into())
}

/// Runs the editor on `text` and returns what was saved. The terminal must have been given back.
///
/// # Errors
/// A sentence that names the editor and what went wrong; the text is unchanged then.
pub fn edit(text: &str) -> Result<String, String> {
    edit_with(&command(), text)
}

fn edit_with(command: &str, text: &str) -> Result<String, String> {
    let failed = |what: String| format!("the editor \"{command}\" {what}; set VISUAL or EDITOR");
    // As shells and git do: the variable may hold arguments.
    let mut words = command.split_whitespace();
    let program = words.next().ok_or_else(|| failed("is empty".into()))?;
    let folder = PrivateFolder::new().map_err(|e| failed(format!("got no file: {e}")))?;
    let path = folder.0.join("message.md");
    let write = || std::fs::File::create(&path)?.write_all(text.as_bytes());
    write().map_err(|e| failed(format!("got no file: {e}")))?;
    let started = super::signals::with_usual_stops(|| Command::new(program).args(words).arg(&path).spawn());
    let status = started.and_then(|mut child| child.wait()).map_err(|e| failed(format!("did not start: {e}")))?;
    if !status.success() {
        return Err(failed(format!("ended with {status}")));
    }
    let mut bytes = Vec::new();
    let read = std::fs::File::open(&path).and_then(|f| f.take(MAX_TEXT).read_to_end(&mut bytes));
    read.map_err(|e| failed(format!("left no file: {e}")))?;
    let edited = String::from_utf8_lossy(&bytes);
    Ok(super::sanitize::text(edited.trim_end_matches('\n')).into_owned())
}

/// A folder that only its owner can enter, gone when dropped.
struct PrivateFolder(std::path::PathBuf);

impl PrivateFolder {
    fn new() -> std::io::Result<Self> {
        let name = format!("rotary-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(body: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("editor.sh");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let command = path.display().to_string();
        (folder, command)
    }

    #[test]
    fn what_the_editor_saves_comes_back_cleaned() {
        let (_folder, command) = script("printf ' more\\033[31m\\n' >> \"$1\"");
        assert_eq!(edit_with(&command, "text"), Ok("text more[31m".into()));
    }

    #[test]
    fn a_missing_or_failing_editor_is_named() {
        assert!(edit_with("no-such-editor-here", "x").unwrap_err().contains("no-such-editor-here"));
        assert!(edit_with("false", "x").unwrap_err().contains("false"));
    }
}
