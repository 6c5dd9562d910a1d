//! Pods that come and go all over the cluster, at a steady rate.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tests::kube::double::Double;

use crate::objects;

/// Pods that are gone at any time; each comes back with another name and identity.
const GONE: usize = 100;
/// The changes of this time are made together.
const TICK: Duration = Duration::from_millis(10);
const CHANGES_PER_TICK: u32 = 10;

pub struct Churn {
    stop: Arc<AtomicBool>,
    changes: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Churn {
    pub fn start(double: Arc<Double>) -> Self {
        let (stop, changes) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopping, counting) = (stop.clone(), changes.clone());
        let thread = thread::spawn(move || {
            let mut pods = Pods::new(double);
            let mut next = Instant::now();
            while !stopping.load(Ordering::Relaxed) {
                for _ in 0..CHANGES_PER_TICK {
                    pods.change();
                    counting.fetch_add(1, Ordering::Relaxed);
                }
                next += TICK;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            pods.all_back();
        });
        Self {
            stop,
            changes,
            thread,
        }
    }

    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Every pod is there again afterwards.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

struct Pods {
    double: Arc<Double>,
    rng: fastrand::Rng,
    /// How often each pod has come.
    lives: Vec<u32>,
    gone: VecDeque<u32>,
}

impl Pods {
    fn new(double: Arc<Double>) -> Self {
        Self {
            double,
            rng: fastrand::Rng::with_seed(1),
            lives: vec![0; objects::PODS as usize],
            gone: VecDeque::new(),
        }
    }

    fn change(&mut self) {
        if self.gone.len() >= GONE {
            self.back();
            return;
        }
        let number = self.rng.u32(..objects::PODS);
        let life = self.lives[number as usize];
        if objects::remove_pod(&self.double, number, life) {
            self.gone.push_back(number);
        }
    }

    fn back(&mut self) {
        if let Some(number) = self.gone.pop_front() {
            let life = &mut self.lives[number as usize];
            *life += 1;
            self.double.set("pods", objects::pod(number, *life));
        }
    }

    fn all_back(&mut self) {
        while !self.gone.is_empty() {
            self.back();
        }
    }
}
