//! A fork-join worker pool that stays cheap when it is idle and fair when the machine is busy.
//!
//! A generation step forks and joins a few hundred times, some tens of microseconds each, so workers that have just
//! finished keep looking for the next fork for a moment before they sleep. They never *have* to take part: the caller
//! works through the tasks itself and waits only for workers that have joined. A worker that the operating system
//! keeps off its core is therefore never waited for, which is what makes barrier pools collapse on busy machines.

#![allow(unsafe_code)]

use super::cores::physical_cores;
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a worker looks for the next fork before it sleeps. Covers the single-threaded gaps between two matrix
/// products of a layer; waking a sleeper costs the caller a system call and some 50 us.
const SPIN: Duration = Duration::from_micros(40);
/// The same beside a GPU, where a layer's gap is some 100 us and the few experts that the host computes are done in less time than waking takes.
const SPIN_AWAKE: Duration = Duration::from_millis(1);

/// Set in [`Shared::state`] while a fork takes workers. The bits below count the workers in it, the bits above number the fork.
const OPEN: u64 = 1 << 16;
const COUNT: u64 = OPEN - 1;
const EPOCH: u64 = OPEN << 1;

type Task = *const (dyn Fn(usize) + Sync);

thread_local! {
    /// Whether this thread is running a task of any pool: a nested fork then runs inline.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// A fork-join pool of our own: no spinning longer than a few microseconds, no barrier that collapses on a busy machine.
pub struct Pool {
    shared: Arc<Shared>,
    /// Held by the one caller whose fork is running; a second caller works alone instead of waiting.
    turn: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

/// Alone on its cache lines (two, since processors fetch them in pairs): what one thread writes must not take from another what that one reads.
#[repr(align(128))]
struct Alone<T>(T);

struct Shared {
    /// Fork number, [`OPEN`] and the count of workers inside (and of those that have come too late and are about to leave).
    state: Alone<AtomicU64>,
    /// The running fork. Written only by the caller, while no worker is inside.
    task: UnsafeCell<Option<(Task, usize)>>,
    next: Alone<AtomicUsize>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    /// Workers looking for a fork; more than the machine has cores to spare would only be in the way.
    spinning: AtomicUsize,
    /// How many may look at a time.
    spinners: AtomicUsize,
    awake: AtomicBool,
    sleeping: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    caller_waits: AtomicBool,
    done: Mutex<()>,
    all_left: Condvar,
}

// SAFETY: `task` is written by the caller that holds `turn`, and only while the state is closed and nobody is counted who joined when it was
// open; workers read it only after they have raised the count of an open state (acquire, paired with the release that opened it). The
// pointer stays valid because `Pool::run` does not return before the count has been zero after the state was closed.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to one thread.
unsafe impl Send for Shared {}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// `threads` includes the calling thread; 0 takes the physical cores.
    #[must_use]
    pub fn new(threads: usize) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = if threads == 0 { physical_cores() } else { threads.min(1024) };
        let shared = Arc::new(Shared {
            state: Alone(AtomicU64::new(0)),
            task: UnsafeCell::new(None),
            next: Alone(AtomicUsize::new(0)),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            spinning: AtomicUsize::new(0),
            spinners: AtomicUsize::new(cores.saturating_sub(1)),
            awake: AtomicBool::new(false),
            sleeping: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            caller_waits: AtomicBool::new(false),
            done: Mutex::new(()),
            all_left: Condvar::new(),
        });
        // A thread that the system refuses is no error: the pool is only slower.
        let workers = (1..threads)
            .map_while(|i| {
                let shared = shared.clone();
                std::thread::Builder::new().name(format!("kernel-{i}")).spawn(move || shared.work()).ok()
            })
            .collect();
        Arc::new(Self { shared, turn: Mutex::new(()), workers })
    }

    /// Threads, the caller included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Whether workers look for the next fork for a millisecond before they sleep, instead of for some microseconds. `others`: threads that
    /// are busy beside the pool and its caller, whose cores are not to be taken from them.
    pub fn stay_awake(&self, awake: bool, others: usize) {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        self.shared.spinners.store(cores.saturating_sub(1 + others), Ordering::Relaxed);
        self.shared.awake.store(awake, Ordering::Relaxed);
    }

    /// Run `task(i)` for every `i < tasks` on all threads, work-stealing by an atomic counter; returns when all are done.
    /// A panic in a task is propagated to the caller after the join, and the pool stays usable. Called from inside a
    /// task, or while another thread's fork is running, it runs everything on the calling thread.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let turn = match self.turn.try_lock() {
            _ if tasks <= 1 || self.workers.is_empty() || INSIDE.get() => None,
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(p)) => Some(p.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        };
        let Some(_turn) = turn else {
            (0..tasks).for_each(task);
            return;
        };
        let s = &*self.shared;
        // SAFETY: only the lifetime is erased; the state is closed with a count of zero here (see `Shared`), and this function
        // does not return before that is so again.
        unsafe {
            let erased: Task = std::mem::transmute::<&(dyn Fn(usize) + Sync), Task>(task);
            *s.task.get() = Some((erased, tasks));
        }
        s.next.0.store(0, Ordering::Relaxed);
        // The next number, open. Added and not stored: a worker that has come too late may be counted right now.
        s.state.0.fetch_add(EPOCH | OPEN, Ordering::SeqCst);
        // Beside a GPU, workers that look for a fork are enough if most of those that may do: waking the others costs more than they bring. If too many have fallen
        // asleep in a longer gap, all are woken, or what is left of them would go on alone.
        let most = s.spinners.load(Ordering::Relaxed).min(self.workers.len());
        let enough = s.awake.load(Ordering::Relaxed) && 2 * s.spinning.load(Ordering::SeqCst) >= most.max(1);
        if s.sleeping.load(Ordering::SeqCst) > 0 && !enough {
            drop(lock(&s.sleep));
            s.wake.notify_all();
        }
        s.take_tasks(task, tasks);
        let before = s.state.0.fetch_and(!OPEN, Ordering::SeqCst);
        if before & COUNT != 0 {
            s.wait_until_left();
        }
        let panic = lock(&s.panic).take();
        drop(_turn);
        if let Some(p) = panic {
            resume_unwind(p);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.sleep));
        self.shared.wake.notify_all();
        for w in self.workers.drain(..) {
            // A worker catches every panic of its tasks, so there is nothing to report here.
            let _ = w.join();
        }
    }
}

impl Shared {
    fn take_tasks(&self, task: &(dyn Fn(usize) + Sync), tasks: usize) {
        INSIDE.set(true);
        let result = catch_unwind(AssertUnwindSafe(|| loop {
            let i = self.next.0.fetch_add(1, Ordering::Relaxed);
            if i >= tasks {
                break;
            }
            task(i);
        }));
        INSIDE.set(false);
        if let Err(p) = result {
            // Let the others stop early, then keep the first panic for the caller.
            self.next.0.store(tasks, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(p);
        }
    }

    /// The caller's join: short jobs end within a moment; a worker that was put off its core is waited for asleep.
    fn wait_until_left(&self) {
        for _ in 0..2000 {
            if self.state.0.load(Ordering::Acquire) & COUNT == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        let mut guard = lock(&self.done);
        self.caller_waits.store(true, Ordering::SeqCst);
        while self.state.0.load(Ordering::SeqCst) & COUNT != 0 {
            guard = self.all_left.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_waits.store(false, Ordering::SeqCst);
    }

    fn work(&self) {
        let mut seen = 0;
        while self.wait_for_fork(&mut seen) {
            // SAFETY: this thread is counted in an open state, so the caller is inside `run` and the pointer is valid.
            if let Some((task, tasks)) = unsafe { *self.task.get() } {
                // SAFETY: as above.
                self.take_tasks(unsafe { &*task }, tasks);
            }
            self.leave();
        }
    }

    /// Join a fork that this worker has not seen, if one is open. By an addition, which always succeeds: a dozen workers that all compare and swap the
    /// same word make each other fail.
    fn try_join(&self, seen: &mut u64) -> bool {
        let new = |state: u64| state & OPEN != 0 && state & !(OPEN | COUNT) != *seen;
        if !new(self.state.0.load(Ordering::SeqCst)) {
            return false;
        }
        let state = self.state.0.fetch_add(1, Ordering::SeqCst);
        if new(state) {
            *seen = state & !(OPEN | COUNT);
            return true;
        }
        self.leave();
        false
    }

    /// One worker fewer is counted.
    fn leave(&self) {
        let before = self.state.0.fetch_sub(1, Ordering::SeqCst);
        if before & (OPEN | COUNT) == 1 && self.caller_waits.load(Ordering::SeqCst) {
            drop(lock(&self.done));
            self.all_left.notify_one();
        }
    }

    /// True once a fork is joined, false when the pool ends.
    fn wait_for_fork(&self, seen: &mut u64) -> bool {
        if self.spinning.fetch_add(1, Ordering::Relaxed) < self.spinners.load(Ordering::Relaxed) {
            let start = Instant::now();
            let spin = if self.awake.load(Ordering::Relaxed) { SPIN_AWAKE } else { SPIN };
            while start.elapsed() < spin {
                for _ in 0..16 {
                    if self.try_join(seen) {
                        self.spinning.fetch_sub(1, Ordering::Relaxed);
                        return true;
                    }
                    std::hint::spin_loop();
                }
            }
        }
        self.spinning.fetch_sub(1, Ordering::Relaxed);
        let mut guard = lock(&self.sleep);
        self.sleeping.fetch_add(1, Ordering::SeqCst);
        let joined = loop {
            if self.stop.load(Ordering::SeqCst) {
                break false;
            }
            if self.try_join(seen) {
                break true;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleeping.fetch_sub(1, Ordering::SeqCst);
        joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_exactly_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, 100] {
                let hits: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..50 {
                    pool.run(tasks, &|i| {
                        hits[i].fetch_add(1, Ordering::Relaxed);
                    });
                }
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 50));
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(4);
        for round in 0..20 {
            let caught = catch_unwind(AssertUnwindSafe(|| pool.run(16, &|i| assert!(i != round % 16, "task {i}"))));
            let text = *caught.expect_err("the panic is propagated").downcast::<String>().expect("with its message");
            assert!(text.contains(&format!("task {}", round % 16)));
            let sum = AtomicUsize::new(0);
            pool.run(16, &|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 120);
        }
    }

    #[test]
    fn nested_and_concurrent_forks_finish() {
        let pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.run(5, &|_| {
                            pool.run(5, &|_| {
                                sum.fetch_add(1, Ordering::Relaxed);
                            })
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 100 * 25);
    }

    #[test]
    fn a_worker_that_stays_awake_and_fell_asleep_is_woken() {
        let pool = Pool::new(2);
        pool.stay_awake(true, 0);
        for pause in [0, 200, 5000, 0, 5000] {
            std::thread::sleep(Duration::from_micros(pause));
            // Neither task ends before both have begun, so the caller alone would not get far.
            let begun = AtomicUsize::new(0);
            pool.run(2, &|_| {
                begun.fetch_add(1, Ordering::SeqCst);
                let start = Instant::now();
                while begun.load(Ordering::SeqCst) < 2 && start.elapsed() < Duration::from_secs(20) {
                    std::thread::yield_now();
                }
                assert_eq!(begun.load(Ordering::SeqCst), 2);
            });
        }
    }

    /// Prints times, which depend on what else the machine does: `cargo test --release -- --ignored --nocapture more_threads`.
    #[test]
    #[ignore = "measures the machine"]
    fn cost_of_more_threads_than_cores() {
        let time = |threads: usize| {
            let pool = Pool::new(threads);
            let mut best = Duration::MAX;
            for _ in 0..5 {
                let start = Instant::now();
                for _ in 0..100 {
                    pool.run(32, &|_| {
                        let mut x = 1u64;
                        for _ in 0..20_000 {
                            x = std::hint::black_box(x.wrapping_mul(3));
                        }
                    });
                }
                best = best.min(start.elapsed());
            }
            best
        };
        let (right, many) = (time(0), time(8 * physical_cores()));
        println!(
            "all cores {right:?}, eight times as many threads {many:?} ({:.2} times as long)",
            many.as_secs_f64() / right.as_secs_f64()
        );
    }

    #[test]
    fn sleeping_workers_end_with_the_pool() {
        let pool = Pool::new(3);
        let shared = pool.shared.clone();
        while shared.sleeping.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        drop(pool);
        assert_eq!(Arc::strong_count(&shared), 1);
    }
}
