//! A fixture whose metadata and tensors a test changes, and the logits of what comes of it.

use rotary::events::{LoadOptions, Phase, When};
use rotary::gguf::write::Writer;
use rotary::gguf::{GgmlType, Gguf};
use rotary::kernels::Pool;
use rotary::model::{self, Logits, ModelError};
use std::path::Path;

/// A fixture, to be rewritten.
#[allow(dead_code, reason = "each test file uses some of it")]
pub(crate) struct File {
    pub(crate) metadata: Vec<(String, rotary::gguf::Value)>,
    pub(crate) tensors: Vec<(String, GgmlType, Vec<usize>, Vec<u8>)>,
}

#[allow(dead_code, reason = "each test file uses some of it")]
impl File {
    pub(crate) fn read(case: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures").join(case).join("model.gguf");
        let gguf = Gguf::open(&path).unwrap();
        Self {
            metadata: gguf.metadata().map(|(k, v)| (k.to_owned(), v.clone())).collect(),
            tensors: gguf.tensors().map(|t| (t.name.clone(), t.ty, t.dims.clone(), gguf.bytes(t).to_vec())).collect(),
        }
    }

    pub(crate) fn set(&mut self, key: &str, value: impl Into<rotary::gguf::Value>) {
        self.drop_key(key);
        self.metadata.push((key.to_owned(), value.into()));
    }

    pub(crate) fn drop_key(&mut self, key: &str) {
        self.metadata.retain(|(k, _)| k != key);
    }

    /// Take a tensor out.
    pub(crate) fn take(&mut self, name: &str) -> (GgmlType, Vec<usize>, Vec<u8>) {
        let at = self.tensors.iter().position(|t| t.0 == name).unwrap_or_else(|| panic!("{name} is there"));
        let (_, ty, dims, data) = self.tensors.remove(at);
        (ty, dims, data)
    }

    pub(crate) fn put(&mut self, name: &str, ty: GgmlType, dims: &[usize], data: Vec<u8>) {
        self.tensors.push((name.to_owned(), ty, dims.to_vec(), data));
    }

    pub(crate) fn writer(&self) -> Writer {
        let mut w = Writer::empty();
        self.metadata.iter().for_each(|(k, v)| w.set(k, v.clone()));
        self.tensors.iter().for_each(|(name, ty, dims, data)| w.tensor(name, *ty, dims, data.clone()));
        w
    }

    /// Logits of every position of a fixed prompt.
    pub(crate) fn logits(&self) -> Result<Vec<f32>, ModelError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("family.gguf");
        self.writer().save(&path).unwrap();
        logits_of(&Gguf::open(&path).unwrap())
    }

    /// The same without the block that guesses further tokens.
    pub(crate) fn logits_without_guesses(&self) -> Result<Vec<f32>, ModelError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("family.gguf");
        self.writer().save(&path).unwrap();
        logits_with(&Gguf::open(&path).unwrap(), When::Never)
    }

    pub(crate) fn refusal(&self) -> String {
        self.logits().map(|_| ()).expect_err("the file is refused").to_string()
    }
}

/// Logits of every position of a fixed prompt.
pub(crate) fn logits_of(gguf: &Gguf) -> Result<Vec<f32>, ModelError> {
    logits_with(gguf, When::Auto)
}

fn logits_with(gguf: &Gguf, draft: When) -> Result<Vec<f32>, ModelError> {
    let load = LoadOptions { context: Some(64), kv_f32: true, threads: Some(1), draft, ..LoadOptions::default() };
    let mut o = model::open(gguf, &load, Pool::new(1))?;
    let ids: Vec<u32> = (0..24).map(|i| (i * 37 + 5) % 300).collect();
    o.experts.begin_step(Phase::Prefill, ids.len());
    Ok(o.model.forward(&ids, &mut o.experts, Logits::All, &|| false)?.unwrap())
}
