//! The BPF object, loaded for tests: with a table of its own, attached to nothing, pinned nowhere.
#![expect(
    unsafe_code,
    reason = "tables are written through a mapping, and map keys are plain bytes"
)]

use std::{
    env, fs,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    ptr::{NonNull, null_mut},
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, ArrayOfMaps, HashMap, IterableMap as _, MapData, PerCpuArray, PerCpuValues},
    programs::{SchedClassifier, SkLookup},
};
use enforcer::report::events;
use enforcer_ebpf::{
    event::{Event, EventBudget},
    flow::{DatagramKey, DatagramValue, FlowKey, FragmentKey, Hits},
    maps::{
        ACTIVE, CAPACITY_COMPILED, DATAGRAMS_IN, DATAGRAMS_OUT, EVENT_BUDGET, RESET_BUDGET, TABLES,
        active, global,
    },
};

/// Node's ends of the proxy's interfaces, as the programs are told.
pub const L7_IFINDEX: u32 = 70;
pub const REJ_IFINDEX: u32 = 71;

const BPF_F_MMAPABLE: u32 = 1 << 10;
type TableMap = Array<MapData, [u32; CAPACITY_COMPILED as usize]>;

/// The programs and maps.
pub struct Bpf {
    pub ebpf: Ebpf,
    tables: Vec<Mapping>,
}

/// A table's words, mapped into memory.
struct Mapping {
    words: NonNull<u32>,
    length: usize,
    /// Keeps the map alive without a slot that refers to it.
    _map: TableMap,
}

/// Where `cargo xtask build` leaves an object, or `ENFORCER_BPF_DIR`.
#[must_use]
pub fn object_path(name: &str) -> PathBuf {
    let folder = env::var_os("ENFORCER_BPF_DIR").map_or_else(
        || {
            let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
            let root = tests.parent().unwrap_or(tests);
            root.join("target/bpf/bpfel-unknown-none/bpf")
        },
        PathBuf::from,
    );
    folder.join(name)
}

/// Why kernel tests cannot run here, or `None`. Under `CI=true` they must be able to.
///
/// # Panics
/// Under `CI=true`, when they cannot.
#[must_use]
pub fn unavailable() -> Option<String> {
    let object = object_path("enforcer-ebpf");
    let reason = if !rustix::process::geteuid().is_root() {
        "not root".to_owned()
    } else if !object.exists() {
        format!(
            "no BPF object at {}: run `cargo xtask build`",
            object.display()
        )
    } else {
        return None;
    };
    assert!(
        env::var("CI").as_deref() != Ok("true"),
        "kernel tests must run in CI: {reason}"
    );
    println!("skipped: {reason}");
    Some(reason)
}

impl Bpf {
    /// Loads `object` from its bytes and all its programs. `events` and log are as compiled.
    ///
    /// # Errors
    /// When the kernel refuses a map or a program.
    pub fn load(name: &str, globals: &[(&str, u32)]) -> Result<Self> {
        let path = object_path(name);
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let mut loader = EbpfLoader::new();
        loader.override_global(global::LOG_LEVEL, &0u8, false);
        for (name, value) in globals {
            loader.override_global(name, value, true);
        }
        let mut ebpf = loader.load(&bytes).context("load the BPF object")?;
        let names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
        for name in names {
            let program = ebpf.program_mut(&name).context("listed above")?;
            if let Ok(program) = <&mut SchedClassifier>::try_from(&mut *program) {
                program.load().with_context(|| format!("load {name}"))?;
            } else {
                let program: &mut SkLookup = program.try_into()?;
                program.load().with_context(|| format!("load {name}"))?;
            }
        }
        Ok(Self {
            ebpf,
            tables: Vec::new(),
        })
    }

    /// Descriptor of a TC program.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn program(&self, name: &str) -> Result<BorrowedFd<'_>> {
        let program: &SchedClassifier = self
            .ebpf
            .program(name)
            .with_context(|| format!("no program {name}"))?
            .try_into()?;
        Ok(program.fd()?.as_fd())
    }

    /// Instructions that the verifier walked.
    ///
    /// # Errors
    /// When there is no such program, or the kernel does not say.
    pub fn verified(&self, name: &str) -> Result<u32> {
        let program = self.ebpf.program(name).context("no such program")?;
        let info = match program {
            aya::programs::Program::SkLookup(program) => program.info(),
            aya::programs::Program::SchedClassifier(program) => program.info(),
            _ => bail!("{name} is of another type"),
        }?;
        info.verified_instruction_count()
            .context("the kernel does not count verified instructions")
    }

    /// Makes a table for `slot`, of the largest size there is.
    ///
    /// # Errors
    /// When memory is short.
    pub fn add_table(&mut self, slot: u32) -> Result<usize> {
        let table = TableMap::create(1, BPF_F_MMAPABLE)?;
        let mut outer =
            ArrayOfMaps::<_, TableMap>::try_from(self.ebpf.map_mut(TABLES).context("no TABLES")?)?;
        outer.set(slot, &table, 0)?;
        self.tables.push(Mapping::new(table)?);
        Ok(self.tables.len() - 1)
    }

    /// Writes a table whole.
    ///
    /// # Errors
    /// When it is too long.
    pub fn write_table(&mut self, table: usize, words: &[u32]) -> Result<()> {
        let mapping = &mut self.tables[table];
        ensure!(words.len() <= mapping.length, "the table is too long");
        // SAFETY: the mapping has `length` words, and nothing else writes to it.
        let target =
            unsafe { std::slice::from_raw_parts_mut(mapping.words.as_ptr(), mapping.length) };
        target[..words.len()].copy_from_slice(words);
        Ok(())
    }

    /// Events and resets are limited in time; tests are seldom about that.
    ///
    /// # Panics
    /// When the object is not the enforcer's own.
    pub fn spend_no_budget(&mut self) {
        for name in [EVENT_BUDGET, RESET_BUDGET] {
            let map = self.ebpf.map_mut(name).expect("a map of that name");
            let mut map = PerCpuArray::<_, Plain<EventBudget>>::try_from(map).expect("EventBudget");
            let cpus = map.get(&0, 0).expect("one element").len();
            let values = vec![Plain(EventBudget::default()); cpus];
            let values = PerCpuValues::try_from(values).expect("one value for each CPU");
            map.set(0, values, 0).expect("one element");
        }
    }

    /// Forgets every flow of datagrams, as time would.
    ///
    /// # Panics
    /// When the object is not the enforcer's own.
    pub fn forget_datagrams(&mut self) {
        for name in [DATAGRAMS_OUT, DATAGRAMS_IN] {
            let map = self.ebpf.map_mut(name).expect("a map of that name");
            let map = HashMap::<_, Plain<DatagramKey>, Plain<DatagramValue>>::try_from(map);
            let mut map = map.expect("a hash of these types");
            let keys: Result<Vec<_>, _> = map.keys().collect();
            for key in keys.expect("nobody else changes it") {
                map.remove(&key).expect("it was just there");
            }
        }
    }

    /// Names the slot that judges.
    ///
    /// # Errors
    /// When the map is not there.
    pub fn activate(&mut self, slot: u32) -> Result<()> {
        let mut map: Array<_, u32> = self.ebpf.map_mut(ACTIVE).context("no ACTIVE")?.try_into()?;
        map.set(active::TABLE, slot, 0)?;
        Ok(())
    }
}

/// Reads an event; its time is nothing to compare.
///
/// # Panics
/// When the bytes are not one event.
#[must_use]
pub fn read_event(bytes: &[u8]) -> Event {
    let event = events::parse(bytes).expect("an event has 72 bytes");
    Event {
        time_low: 0,
        time_high: 0,
        ..event
    }
}

impl Mapping {
    fn new(map: TableMap) -> Result<Self> {
        let length = CAPACITY_COMPILED as usize;
        let fd = map.map().fd().as_fd().as_raw_fd();
        // SAFETY: a fresh mapping of a whole map value; it is unmapped when dropped.
        let address = unsafe {
            libc::mmap(
                null_mut(),
                length * size_of::<u32>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        ensure!(
            address != libc::MAP_FAILED,
            "map a table into memory: {}",
            std::io::Error::last_os_error()
        );
        let words = NonNull::new(address.cast()).context("mmap does not map address 0")?;
        Ok(Self {
            words,
            length,
            _map: map,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, which nothing refers to any more.
        unsafe { libc::munmap(self.words.as_ptr().cast(), self.length * size_of::<u32>()) };
    }
}

/// A key or value of one of the object's maps, which `enforcer-ebpf` cannot mark for aya itself.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plain<T: Copy>(pub T);

// SAFETY: `repr(C)` of integers without padding.
unsafe impl aya::Pod for Plain<FlowKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<FragmentKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<enforcer_ebpf::flow::FragmentValue> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<enforcer_ebpf::flow::OutValue> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<enforcer_ebpf::flow::ProxyValue> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<EventBudget> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<Hits> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<enforcer_ebpf::flow::DatagramKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<enforcer_ebpf::flow::DatagramValue> {}
