//! From a source to an open model: map, check, plan, warm the page cache, bind.

use super::gauges::{process_memory, MappedFile, WatchedDevice};
use super::runtime::{Language, Opened, Progress, Runtime};
use super::sampling::defaults_from_gguf;
use super::warm::Keeper;
use super::EngineError;
use crate::events::{LoadOptions, Message, ModelCard, ModelSource, Phase, Plan, Reasoning, Scheduling, StepRecord};
use crate::experts::vram::{Held, Rates};
use crate::experts::Experts;
use crate::gguf::Gguf;
use crate::kernels::{self, Pool};
use crate::model::proof::{prove, Outcome, Proven};
use crate::model::{self, Logits, Model};
use crate::text::{ChatTemplate, Format, Mark, Tokenizer};
use crate::trace::scheduling::told;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Map the file of `source` and check it.
pub fn map(source: &ModelSource) -> Result<Gguf, EngineError> {
    Ok(match source {
        ModelSource::Demo => Gguf::from_static(crate::demo::gguf(), "demo")?,
        ModelSource::Path(path) => Gguf::open(path)?,
    })
}

/// A model without words: for measurements, which bring their own token ids.
pub struct Bare {
    /// Computes steps.
    pub runtime: Box<dyn Runtime>,
    /// What the metadata says.
    pub config: model::ModelConfig,
    /// The memory plan that was followed.
    pub plan: Plan,
    /// Bytes of one expert, per layer that has experts.
    pub expert_bytes: Vec<u64>,
    /// What computes.
    pub device: String,
    /// The device, for its gauges; `None` on the CPU.
    pub watched: Option<WatchedDevice>,
    /// What came of trying the device's kernels; `None` if they were not tried.
    pub proof: Option<Outcome>,
    /// What is to be said of that, if anything.
    pub told: Option<String>,
}

/// Plan and load the numbers of a mapped model.
pub fn bare(gguf: &Gguf, options: &LoadOptions) -> Result<Bare, EngineError> {
    let chosen = model::choose_for(gguf, options.device)?;
    let planned = model::plan_on(gguf, options, kernels::memory::available(), chosen.device.as_deref())?;
    let proven = prove(gguf, options, chosen, planned, &mut |_, _| true)?;
    bare_on(gguf, options, proven, &mut |_, _| true)
}

/// The same on a device that was chosen and proven before, by a plan for it. `progress` is told layers of the trunk that a device has taken over, and how many there are.
fn bare_on(
    gguf: &Gguf,
    options: &LoadOptions,
    proven: Proven,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Bare, EngineError> {
    let told = proven.told();
    let Proven { chosen, planned, proof } = proven;
    let pool = Pool::new(options.threads.unwrap_or(0));
    let threads = pool.threads();
    let cpu = format!("{}, {threads} {}", kernels::instruction_set(), if threads == 1 { "thread" } else { "threads" });
    let lacks = chosen.lacks.map(|why| format!(" ({why})")).unwrap_or_default();
    let opened = model::open_planned(gguf, options, planned, pool, chosen.device, progress);
    let model::Opened { model, experts, config, plan, expert_bytes, device, traffic, chunk, .. } = opened?;
    let watched = traffic.map(|(device, traffic)| WatchedDevice { device, traffic });
    let device = match device {
        Some(name) => format!("{name}; host {cpu}"),
        None => format!("CPU{lacks}, {cpu}"),
    };
    Ok(Bare {
        runtime: Box::new(Numbers { model, experts, chunk: chunk.unwrap_or(model::CPU_CHUNK), keeper: None, guessed: 0 }),
        config,
        plan,
        expert_bytes,
        device,
        watched,
        proof,
        told,
    })
}

/// Open `source`. What can be refused from the header alone is refused first, with the numbers; then the page cache
/// is warmed in file order, because the random order in which experts are used is many times slower on a cold file.
pub fn open(source: &ModelSource, options: &LoadOptions, progress: &mut Progress<'_>) -> Result<Opened, EngineError> {
    let mut go_on = |stage: &str, done, total| if progress(stage, done, total) { Ok(()) } else { Err(EngineError::Cancelled) };
    go_on("checking the file", 0, 0)?;
    let gguf = map(source)?;
    // Opened once, for the plan and for the model: opening loads every kernel.
    let chosen = model::choose_for(&gguf, options.device)?;
    let planned = model::plan_on(&gguf, options, kernels::memory::available(), chosen.device.as_deref())?;
    go_on("reading the tokenizer", 0, 0)?;
    let tokenizer = Tokenizer::from_gguf(&gguf)?;
    let template = ChatTemplate::from_gguf(&gguf)?;
    let trying = &mut |done, of| go_on("trying the GPU's kernels", done as u64, of as u64).is_ok();
    let proven = prove(&gguf, options, chosen, planned, trying)?;
    if worth_warming(&gguf, &proven.planned.plan) {
        warm(gguf.paths(), gguf.len(), &mut |done, total| go_on("reading the file", done, total))?;
    }
    go_on("binding the weights", 0, 0)?;
    let mut taken = |done: usize, of: usize| go_on("copying the trunk to the GPU", done as u64, of as u64).is_ok();
    let Bare { mut runtime, config, plan, expert_bytes, device, watched, proof, told } = bare_on(&gguf, options, proven, &mut taken)?;
    let idle = options.idle_on_cpu(proof.is_some()).filter(|_| plan.device.is_none());
    let mut notes: Vec<String> = told.into_iter().chain(idle).collect();
    if options.spread && !expert_bytes.is_empty() {
        runtime.set_spread(true)?;
    }
    if let Some(folder) = options.heat.as_ref().filter(|_| !expert_bytes.is_empty()) {
        let keeper = Keeper::new(folder, gguf.fingerprint());
        let mut given_up = false;
        let said = runtime.warm_start(keeper, &mut |done, total| {
            given_up = go_on("filling slots from earlier use", done, total).is_err();
            !given_up
        })?;
        if given_up {
            return Err(EngineError::Cancelled);
        }
        notes.extend(said);
    }
    let card = ModelCard {
        name: name(&gguf, source),
        arch: crate::gguf::shown(gguf.arch()?),
        toy: *source == ModelSource::Demo,
        layers: expert_bytes.len(),
        experts: config.experts,
        top_k: config.top_k,
        vocab: config.vocab,
        context: plan.context,
        expert_bytes,
        plan,
        sampling: defaults_from_gguf(&gguf),
        can_think: template.can_think(),
        has_effort: template.has_effort(),
        template_fallback: template.is_fallback(),
        device,
    };
    let mapped = (*source != ModelSource::Demo).then(|| {
        let (size, gguf) = (gguf.len(), gguf.clone());
        MappedFile { size, resident: Arc::new(move || gguf.parts().iter().map(|p| p.resident_bytes()).sum()) }
    });
    Ok(Opened { card, runtime, language: Box::new(Words { tokenizer, template }), notes, mapped, watched, proof })
}

/// `general.name`, or the file's stem.
fn name(gguf: &Gguf, source: &ModelSource) -> String {
    match (gguf.str("general.name"), source) {
        (Ok(Some(name)), _) if !name.trim().is_empty() => crate::gguf::shown(name),
        (_, ModelSource::Path(path)) => crate::gguf::shown(&path.file_stem().unwrap_or_default().to_string_lossy()),
        (_, ModelSource::Demo) => "demo".into(),
    }
}

/// Reading the whole file pays if it is cold and the page cache can keep it.
fn worth_warming(gguf: &Gguf, plan: &Plan) -> bool {
    let size = gguf.len();
    let cold = gguf.parts().iter().map(|p| p.resident_bytes()).sum::<Option<u64>>().is_some_and(|r| r < size / 10 * 9);
    // The page cache is not this process's memory, but a person who gives a budget wants the machine left alone.
    let room = plan.budget.unwrap_or(u64::MAX).min(process_memory().available / 10 * 8);
    cold && size <= room
}

/// Read `paths` from end to end into nothing: through the page cache, not into this process's memory.
fn warm<P: AsRef<Path>>(paths: &[P], total: u64, progress: &mut dyn FnMut(u64, u64) -> Result<(), EngineError>) -> Result<(), EngineError> {
    let mut buffer = vec![0u8; 4 << 20];
    let mut done = 0;
    for path in paths {
        // A file that can't be read a second time is found out when its weights are bound.
        let Ok(mut file) = std::fs::File::open(path) else { continue };
        while let Ok(n @ 1..) = file.read(&mut buffer) {
            done += n as u64;
            progress(done.min(total), total)?;
        }
    }
    Ok(())
}

/// The model and its experts, as the thread sees them.
struct Numbers {
    model: Box<dyn Model>,
    experts: Experts,
    chunk: usize,
    keeper: Option<Keeper>,
    /// Tokens of the step that has begun with guesses; 0 if none has.
    guessed: usize,
}

impl Runtime for Numbers {
    fn step(
        &mut self,
        tokens: &[u32],
        logits: Logits,
        stop: &dyn Fn() -> bool,
        record: &mut StepRecord,
    ) -> Result<Option<Vec<f32>>, EngineError> {
        // A step whose tokens were guessed has begun with that.
        if std::mem::take(&mut self.guessed) != tokens.len() {
            self.experts.begin_step(record.phase, tokens.len());
        }
        if record.phase == Phase::Decode && tokens.len() > 1 {
            self.model.tentative();
        }
        let out = self.model.forward(tokens, &mut self.experts, logits, stop)?;
        self.experts.end_step(record);
        self.experts.fill_up();
        Ok(out)
    }
    fn len(&self) -> usize {
        self.model.len()
    }
    fn truncate(&mut self, len: usize) -> usize {
        self.model.truncate(len)
    }
    fn mark(&mut self, lens: &[usize]) {
        self.model.mark(lens);
    }
    fn most_drafted(&self) -> usize {
        self.model.most_tentative() - 1
    }
    fn guesses(&self) -> bool {
        self.model.guesses()
    }
    fn guess(&mut self, next: u32, most: usize, stop: &dyn Fn() -> bool) -> Result<Vec<u32>, EngineError> {
        self.experts.begin_step(Phase::Decode, 1 + most);
        let guesses = self.model.guess(next, most, &mut self.experts, stop)?;
        // A step of fewer tokens begins as another.
        self.guessed = if guesses.len() == most { 1 + most } else { 0 };
        Ok(guesses)
    }
    fn chunk(&self) -> usize {
        self.chunk
    }
    fn cache_bytes(&self) -> u64 {
        self.model.cache_bytes()
    }
    fn slots(&self) -> usize {
        self.experts.slots()
    }
    fn slot_bytes(&self) -> u64 {
        self.experts.bytes_used()
    }
    fn resize(&mut self, slots: usize) -> Result<usize, EngineError> {
        Ok(self.experts.resize(slots)?)
    }
    fn scheduling(&self) -> Option<Scheduling> {
        let scheduler = self.experts.scheduler();
        (scheduler.layers() > 0).then(|| told(scheduler.policy(), scheduler.admission(), self.experts.slots()))
    }
    fn rescheduled(&mut self) -> bool {
        self.experts.rescheduled()
    }
    fn hold_all(&mut self) -> Option<Held> {
        self.experts.hold_all()
    }
    fn rates(&self) -> Option<Rates> {
        self.experts.rates()
    }
    fn set_policy(&mut self, name: &str) -> Result<(), EngineError> {
        Ok(self.experts.set_policy(name)?)
    }
    fn time_hits_every(&mut self, tokens: u32) {
        self.experts.time_hits_every(tokens);
    }
    fn set_spread(&mut self, on: bool) -> Result<Vec<u16>, EngineError> {
        Ok(self.experts.set_spread(on)?.iter().map(|&s| s as u16).collect())
    }
    fn spread_now(&self) -> Option<Vec<u16>> {
        self.experts.spread_now().map(|by_layer| by_layer.iter().map(|&s| s as u16).collect())
    }
    fn respread(&mut self) -> Result<Option<Vec<u16>>, EngineError> {
        Ok(self.experts.respread()?.map(|by_layer| by_layer.iter().map(|&s| s as u16).collect()))
    }
    fn warm_start(&mut self, mut keeper: Keeper, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<Option<String>, EngineError> {
        let scheduler = self.experts.scheduler();
        let read = keeper.read(scheduler.layers(), scheduler.experts());
        self.keeper = Some(keeper);
        let heat = match read {
            Ok(Some(heat)) => heat,
            Ok(None) => return Ok(None),
            Err(why) => return Ok(Some(why)),
        };
        let tokens = heat.tokens();
        let filled = self.experts.warm(heat, progress)?.unwrap_or(0);
        let slots = self.experts.slots() * self.experts.scheduler().layers();
        Ok((filled > 0)
            .then(|| format!("warm start: {filled} of {slots} slots are filled from {tokens} earlier tokens (--cold: from none)")))
    }
    fn keep_heat(&mut self) -> Option<String> {
        self.keeper.as_mut()?.write(self.experts.heat()).err()
    }
}

/// Tokenizer and template, as the thread sees them.
pub(super) struct Words {
    pub(super) tokenizer: Tokenizer,
    pub(super) template: ChatTemplate,
}

impl Language for Words {
    fn render(&self, messages: &[Message], reasoning: Reasoning, now: u64) -> Result<String, EngineError> {
        Ok(self.template.render(messages, reasoning, now)?)
    }
    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, EngineError> {
        Ok(self.tokenizer.encode(text, special)?)
    }
    fn token_bytes(&self, id: u32, special: bool) -> Vec<u8> {
        self.tokenizer.token_bytes(id, special)
    }
    fn is_end(&self, id: u32) -> bool {
        self.tokenizer.is_end(id)
    }
    fn format(&self) -> Format {
        self.tokenizer.format()
    }
    fn mark(&self, id: u32) -> Option<Mark> {
        self.tokenizer.mark(id)
    }
    fn vocab(&self) -> usize {
        self.tokenizer.vocab()
    }
    fn bos(&self) -> Option<u32> {
        self.tokenizer.bos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{DeviceChoice, When};
    use std::io::Write;

    #[test]
    fn a_model_that_comes_to_a_device_is_told_to_have_its_kernels_tried() {
        let folder = tempfile::tempdir().unwrap();
        let open = |prove| {
            let proofs = Some(folder.path().join("proofs"));
            let options = LoadOptions { device: DeviceChoice::Simulated, prove, proofs, threads: Some(1), ..LoadOptions::default() };
            let mut told = Vec::new();
            let opened = super::open(&ModelSource::Demo, &options, &mut |stage, done, of| {
                told.extend((stage == "trying the GPU's kernels").then_some((done, of)));
                true
            });
            let opened = opened.unwrap();
            let tried = opened.proof.map_or(0, |p| p.unwrap().tried);
            (tried, told, opened.notes.join("; "))
        };
        let (tried, told, notes) = open(When::Always);
        let of = tried as u64;
        assert!(tried > 20 && notes.contains(&format!("kernels passed {tried} trials in ")), "{notes}");
        assert_eq!(told, (0..=of).map(|done| (done, of)).collect::<Vec<_>>());
        assert_eq!(open(When::Never), (0, Vec::new(), String::new()));
        let given_up = super::open(
            &ModelSource::Demo,
            &LoadOptions { device: DeviceChoice::Simulated, prove: When::Always, ..LoadOptions::default() },
            &mut |stage, done, _| !(stage.starts_with("trying") && done == 3),
        );
        assert_eq!(given_up.err().unwrap().kind(), crate::events::FailureKind::Cancelled);
    }

    #[test]
    fn warming_reads_every_byte_reports_it_and_can_be_given_up() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![7; 9 << 20]).unwrap();
        let paths = [file.path().to_owned()];
        let mut seen = Vec::new();
        warm(&paths, 9 << 20, &mut |done, total| {
            seen.push((done, total));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen.last(), Some(&(9 << 20, 9 << 20)));
        assert!(seen.len() >= 3, "in pieces: {seen:?}");
        let given_up = warm(&paths, 9 << 20, &mut |_, _| Err(EngineError::Cancelled));
        assert!(matches!(given_up, Err(EngineError::Cancelled)));
    }
}
