//! What is written into tables after they were linked: flags of pods, and pauses with their ends.

use enforcer_ebpf::words::{ABI, MAGIC, header, options, pod, pod_flags};

use super::{Memory, Tables};

impl Tables {
    /// Brings into a table that is to become active what has changed in the active one since it was
    /// linked: the flags of pods that outlive an activation, and pauses. Both tables must have the
    /// same pods in the same slots.
    pub fn bring_over(&self, slot: u32) {
        let Some(to) = self.slots.get(slot as usize).and_then(Option::as_ref) else {
            return;
        };
        let to = &to.memory;
        let first = (self.read_active(header::PODS), to.load(header::PODS));
        let count = self.read_active(header::PODS_COUNT);
        for pod in 0..count.min(to.load(header::PODS_COUNT)) {
            let at = (first.0 + pod * pod::WORDS, first.1 + pod * pod::WORDS);
            for word in [pod::PAUSED_UNTIL, pod::SEEDING_UNTIL] {
                to.store(at.1 + word, self.read_active(at.0 + word));
            }
            let kept = pod_flags::PROXIED;
            let same = pod_flags::PAUSED | pod_flags::SEEDING;
            let (ours, flags) = (to.load(at.1 + pod::FLAGS), at.0 + pod::FLAGS);
            let flags = self.read_active(flags);
            to.store(at.1 + pod::FLAGS, (ours & !same) | flags & (kept | same));
        }
        to.store(header::PAUSED_UNTIL, self.read_active(header::PAUSED_UNTIL));
        let everybody = self.read_active(header::OPTIONS) & options::PAUSED;
        let ours = to.load(header::OPTIONS) & !options::PAUSED;
        to.store(header::OPTIONS, ours | everybody);
    }

    /// Clears bits of a pod's flags in the active table, at once.
    pub fn clear_pod_flags(&self, pod_slot: u32, flags: u32) {
        if let Some((memory, at)) = self.active_pod(pod_slot) {
            let at = at + pod::FLAGS;
            memory.store(at, memory.load(at) & !flags);
        }
    }

    /// Pauses a pod of the active table, at once, up to and with a second since boot.
    pub fn pause_pod(&self, pod_slot: u32, until: u32) {
        if let Some((memory, at)) = self.active_pod(pod_slot) {
            // The end comes first: a flag without one pauses nothing.
            memory.store(at + pod::PAUSED_UNTIL, until);
            let at = at + pod::FLAGS;
            memory.store(at, memory.load(at) | pod_flags::PAUSED);
        }
    }

    /// Last second since boot of a pod's pause in the active table, if it is paused.
    pub fn paused_until(&self, pod_slot: u32) -> Option<u32> {
        let (memory, at) = self.active_pod(pod_slot)?;
        let paused = memory.load(at + pod::FLAGS) & pod_flags::PAUSED != 0;
        paused.then(|| memory.load(at + pod::PAUSED_UNTIL))
    }

    /// Whether a pod, or every pod, is not to be hindered now, or was not a moment ago.
    pub fn is_unhindered(&self, pod_slot: u32) -> bool {
        let flags = self
            .active_pod(pod_slot)
            .map_or(0, |(memory, at)| memory.load(at + pod::FLAGS));
        self.all_paused_until().is_some() || flags & (pod_flags::PAUSED | pod_flags::SEEDING) != 0
    }

    /// Pauses every pod, as [`Tables::pause_pod`] does one; `None` ends that.
    pub fn pause_all(&self, until: Option<u32>) {
        let Some(memory) = self.active_memory() else {
            return;
        };
        if let Some(until) = until {
            memory.store(header::PAUSED_UNTIL, until);
        }
        let options = memory.load(header::OPTIONS) & !options::PAUSED;
        let paused = until.map_or(0, |_| options::PAUSED);
        memory.store(header::OPTIONS, options | paused);
    }

    /// Last second since boot of the pause of every pod, if there is one.
    pub fn all_paused_until(&self) -> Option<u32> {
        let paused = self.read_active(header::OPTIONS) & options::PAUSED != 0;
        paused.then(|| self.read_active(header::PAUSED_UNTIL))
    }

    /// Activation number of the table that lies in a slot, if one does.
    pub fn epoch_of(&self, slot: u32) -> Option<u32> {
        let memory = &self.slots.get(slot as usize)?.as_ref()?.memory;
        let valid = memory.load(header::MAGIC) == MAGIC && memory.load(header::ABI) == ABI;
        valid.then(|| memory.load(header::EPOCH))
    }

    fn active_memory(&self) -> Option<&Memory> {
        let slot = self.active_slot()?;
        self.slots[slot as usize].as_ref().map(|slot| &slot.memory)
    }

    fn active_pod(&self, pod_slot: u32) -> Option<(&Memory, u32)> {
        let memory = self.active_memory()?;
        (pod_slot < memory.load(header::PODS_COUNT))
            .then(|| (memory, memory.load(header::PODS) + pod_slot * pod::WORDS))
    }
}
