//! The BPF object: its bytes, its globals, its maps. Loads the programs, attaches nothing.

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Map, MapData, MapError},
    programs::{Program, ProgramError, SchedClassifier, SkLookup},
};
use enforcer_ebpf::{
    judge::features,
    maps::{ACTIVE, HITS, PINNED, TABLES, global, hits_entries, program},
    words::{CAPACITY_MAX, RECORDS_MAX, SLOTS},
};

use crate::{
    pins::{Pins, PinsError},
    proxy_netns::{Port, ProxyNetns},
    table::{CreateError, TableError, Tables, create_outer},
};

/// The object that `cargo xtask build` made, if it was there when the agent was built.
#[cfg(bpf_object)]
static BYTES: Option<&[u8]> = Some(aya::include_bytes_aligned!(env!("ENFORCER_BPF_OBJECT")));
#[cfg(not(bpf_object))]
static BYTES: Option<&[u8]> = None;

/// Programs that sit on network interfaces.
pub const CLASSIFIERS: [&str; 3] = [program::TO_POD, program::FROM_POD, program::FROM_L7];

/// Fewest words that a slot is made for: 1 MB.
const CAPACITY_LEAST: u32 = 1 << 18;
/// Fewest records that hits are counted for: 48 KB for each processor.
const RECORDS_LEAST: u32 = 1 << 10;

/// Maps that speak of slots, and so are made anew together with the tables.
const OF_SLOTS: [&str; 3] = [TABLES, ACTIVE, HITS];

/// The loaded programs and their maps.
pub struct Object {
    pub ebpf: Ebpf,
    pub tables: Tables,
}

/// What can go wrong before anything is attached.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error(
        "this agent was built without its BPF programs: run `cargo xtask build`, then build it again"
    )]
    NotBuilt,
    #[error("a table of {wanted} words is more than the {CAPACITY_MAX} that one slot may hold")]
    Capacity { wanted: u32 },
    #[error("cannot load the BPF object: `enforcer doctor` says what this kernel lacks")]
    Load {
        #[source]
        source: Box<EbpfError>,
    },
    #[error("the BPF object has no `{name}`: it is of another version than this agent")]
    Missing { name: &'static str },
    #[error("the kernel refuses program `{name}`: `enforcer doctor` says what it lacks")]
    Program {
        name: &'static str,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("cannot open map `{name}`")]
    Map {
        name: &'static str,
        #[source]
        source: Box<MapError>,
    },
    #[error("cannot pin map `{name}`")]
    Pin {
        name: &'static str,
        #[source]
        source: Box<aya::pin::PinError>,
    },
    #[error(transparent)]
    Pins(#[from] PinsError),
    #[error(transparent)]
    Create(#[from] CreateError),
    #[error(transparent)]
    Table(#[from] TableError),
}

/// Whether the agent was built with its programs.
pub fn is_built() -> bool {
    BYTES.is_some()
}

/// What tables must have room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Words in a slot.
    pub words: u32,
    /// Records whose hits are counted.
    pub records: u32,
}

/// Loads the programs over the pinned maps, and makes and pins the maps that are missing, with room
/// for `wanted` at least. `features` are what the programs are to do beyond the rest.
pub fn load(
    pins: &Pins,
    proxy: &ProxyNetns,
    wanted: Room,
    features: u32,
    log: bool,
) -> Result<Object, ObjectError> {
    let bytes = BYTES.ok_or(ObjectError::NotBuilt)?;
    let Place { room, outgrown } = ensure_tables(pins, wanted)?;
    let capacity = room.words;
    let place = |name| match outgrown.is_some() && OF_SLOTS.contains(&name) {
        true => pins.grown_map(name),
        false => pins.map(name),
    };
    let l7_mac = padded(&proxy.l7);
    let rej_mac = padded(&proxy.rej);
    let netns_id = u32::try_from(proxy.id).map_or(0, |id| id + 1);
    let log_level = if log { u8::MAX } else { 0 };

    let mut loader = EbpfLoader::new();
    loader
        .override_global(global::CAPACITY, &capacity, true)
        .override_global(global::L7_IFINDEX, &proxy.l7.outside, true)
        .override_global(global::REJ_IFINDEX, &proxy.rej.outside, true)
        .override_global(global::L7_PEER_IFINDEX, &proxy.l7.inside, true)
        .override_global(global::L7_MAC, &l7_mac[..], true)
        .override_global(global::REJ_MAC, &rej_mac[..], true)
        .override_global(global::L7_NETNS_ID, &netns_id, true)
        .override_global(global::FEATURES, &features, true)
        // Frozen into the program: what is not logged costs nothing.
        .override_global("AYA_LOG_LEVEL", &log_level, false);
    // It is allocated ahead, once for each processor that the machine may have.
    loader.map_max_entries(HITS, hits_entries(room.records));
    for name in PINNED {
        loader.map_pin_path(name, place(name));
    }
    let mut ebpf = loader.load(bytes).map_err(|source| ObjectError::Load {
        source: Box::new(source),
    })?;
    load_programs(&mut ebpf)?;
    let outer = take(&mut ebpf, TABLES)?;
    let active = MapData::from_pin(place(ACTIVE)).map_err(unopened(ACTIVE))?;
    let mut tables = Tables::adopt(outer, &active, capacity)?;
    if let Some(words) = outgrown.filter(|words| !words.is_empty()) {
        let staged = tables.stage(&words)?;
        tables.switch(&staged);
    }
    Ok(Object { ebpf, tables })
}

/// What further copies of the programs are loaded by: for pods that are guarded from inside.
#[derive(Debug)]
pub struct Copy<'a> {
    pub pins: &'a Pins,
    /// Words in a slot.
    pub capacity: u32,
    /// Bits of [`features`].
    pub features: u32,
}

impl Copy<'_> {
    /// Loads a copy that knows its interface by the index that the table has for it. There is no way
    /// to the proxy's namespace from another: what it refuses vanishes, what it would steer is refused.
    pub fn load(&self, interface: u32) -> Result<Ebpf, ObjectError> {
        let bytes = BYTES.ok_or(ObjectError::NotBuilt)?;
        let features = self.features | features::INSIDE;
        let mut loader = EbpfLoader::new();
        loader
            .override_global(global::CAPACITY, &self.capacity, true)
            .override_global(global::FEATURES, &features, true)
            .override_global(global::INTERFACE, &interface, true)
            .override_global(global::LOG_LEVEL, &0u8, false);
        for name in PINNED {
            let grown = self.pins.grown_map(name);
            let place = if grown.exists() {
                grown
            } else {
                self.pins.map(name)
            };
            loader.map_pin_path(name, place);
        }
        let mut ebpf = loader.load(bytes).map_err(|source| ObjectError::Load {
            source: Box::new(source),
        })?;
        for name in [program::FROM_POD, program::TO_POD] {
            load_classifier(&mut ebpf, name)?;
        }
        Ok(ebpf)
    }
}

/// Loads the programs for a moment, with small maps and attached to nothing: whether this kernel
/// takes them, and how many instructions its verifier walked for each. `pins` must be nobody's; what
/// is made there is the caller's to remove.
pub fn trial(pins: &Pins) -> Result<Vec<(&'static str, Option<u32>)>, ObjectError> {
    let bytes = BYTES.ok_or(ObjectError::NotBuilt)?;
    let room = Room {
        words: CAPACITY_LEAST,
        records: RECORDS_LEAST,
    };
    let room = ensure_tables(pins, room)?.room;
    let mut ebpf = EbpfLoader::new()
        .override_global(global::CAPACITY, &room.words, true)
        .override_global(global::LOG_LEVEL, &0u8, false)
        .map_max_entries(HITS, hits_entries(room.records))
        .map_pin_path(TABLES, pins.map(TABLES))
        .load(bytes)
        .map_err(|source| ObjectError::Load {
            source: Box::new(source),
        })?;
    load_programs(&mut ebpf)?;
    let names = CLASSIFIERS.iter().chain([&program::PROXY_LOOKUP]);
    let walked = |name: &&'static str| {
        let info = match ebpf.program(name) {
            Some(Program::SchedClassifier(program)) => program.info().ok(),
            Some(Program::SkLookup(program)) => program.info().ok(),
            _ => None,
        };
        (*name, info.and_then(|i| i.verified_instruction_count()))
    };
    Ok(names.map(walked).collect())
}

/// Words for a table of `needed` words: room to grow without a restart.
pub fn roomy(needed: u32) -> u32 {
    needed
        .saturating_mul(2)
        .checked_next_power_of_two()
        .unwrap_or(CAPACITY_MAX)
        .clamp(CAPACITY_LEAST, CAPACITY_MAX)
}

/// Records for a table of `needed` records, as [`roomy`].
pub fn roomy_records(needed: u32) -> u32 {
    needed
        .saturating_mul(2)
        .checked_next_power_of_two()
        .unwrap_or(RECORDS_MAX)
        .clamp(RECORDS_LEAST, RECORDS_MAX)
}

/// Takes a map out of the object, for a typed view of it.
pub fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, ObjectError> {
    ebpf.take_map(name).ok_or(ObjectError::Missing { name })
}

/// Where the tables are.
struct Place {
    room: Room,
    /// The table that judges, where it lies in slots that are too small. The new ones are pinned
    /// beside them, and begin with this table: no verdict changes while programs move over.
    outgrown: Option<Vec<u32>>,
}

/// The pinned map of tables if its tables are large enough; else a new one.
fn ensure_tables(pins: &Pins, wanted: Room) -> Result<Place, ObjectError> {
    if wanted.words > CAPACITY_MAX {
        return Err(ObjectError::Capacity {
            wanted: wanted.words,
        });
    }
    pins.forget_grown_maps()?;
    let held = pinned_room(pins, wanted.records)?;
    if let Some(room) =
        held.filter(|held| held.words >= wanted.words && held.records >= wanted.records)
    {
        return Ok(Place {
            room,
            outgrown: None,
        });
    }
    let wanted = held.map_or(wanted, |held| Room {
        words: held.words.max(wanted.words),
        records: held.records.max(wanted.records),
    });
    let outgrown = match held {
        Some(held) => Some(active_words(pins, held.words)?),
        None => {
            for name in OF_SLOTS {
                pins.forget_map(name)?;
            }
            None
        }
    };
    let path = match outgrown.is_some() {
        true => pins.grown_map(TABLES),
        false => pins.map(TABLES),
    };
    let outer = create_outer(wanted.words)?;
    outer.pin(path).map_err(|source| ObjectError::Pin {
        name: TABLES,
        source: Box::new(source),
    })?;
    Ok(Place {
        room: wanted,
        outgrown,
    })
}

/// The table that judges now, from the pinned tables; nothing when none does.
fn active_words(pins: &Pins, capacity: u32) -> Result<Vec<u32>, ObjectError> {
    let outer = MapData::from_pin(pins.map(TABLES)).map_err(unopened(TABLES))?;
    let outer = Map::from_map_data(outer).map_err(unopened(TABLES))?;
    let active = MapData::from_pin(pins.map(ACTIVE)).map_err(unopened(ACTIVE))?;
    Ok(Tables::adopt(outer, &active, capacity)?.active_words())
}

/// What the pinned maps have room for, or `None` when no table was ever published. `records` is what
/// the map of hits is about to be made for, where there is none yet.
fn pinned_room(pins: &Pins, records: u32) -> Result<Option<Room>, ObjectError> {
    let Some(words) = pinned_capacity(pins)? else {
        return Ok(None);
    };
    let path = pins.map(HITS);
    let records = match path.exists() {
        true => {
            let hits = MapData::from_pin(path).map_err(unopened(HITS))?;
            hits.info().map_err(unopened(HITS))?.max_entries() / SLOTS
        }
        false => records,
    };
    Ok(Some(Room { words, records }))
}

/// Words in a slot of the pinned map of tables, or `None` when nothing was ever published in it.
fn pinned_capacity(pins: &Pins) -> Result<Option<u32>, ObjectError> {
    let failed = || unopened(TABLES);
    let path = pins.map(TABLES);
    if !path.exists() {
        return Ok(None);
    }
    let outer = Map::from_map_data(MapData::from_pin(path).map_err(failed())?).map_err(failed())?;
    let outer: aya::maps::ArrayOfMaps<MapData, MapData> = outer.try_into().map_err(failed())?;
    for slot in 0..SLOTS {
        match outer.get(&slot, 0) {
            Ok(slot) => return Ok(Some(slot.info().map_err(failed())?.value_size() / 4)),
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(failed()(error)),
        }
    }
    Ok(None)
}

fn unopened(name: &'static str) -> impl FnOnce(MapError) -> ObjectError {
    move |source| ObjectError::Map {
        name,
        source: Box::new(source),
    }
}

fn load_programs(ebpf: &mut Ebpf) -> Result<(), ObjectError> {
    for name in CLASSIFIERS {
        load_classifier(ebpf, name)?;
    }
    let name = program::PROXY_LOOKUP;
    let failed = |source| ObjectError::Program {
        name,
        source: Box::new(source),
    };
    let program: &mut SkLookup = ebpf
        .program_mut(name)
        .ok_or(ObjectError::Missing { name })?
        .try_into()
        .map_err(failed)?;
    program.load().map_err(failed)
}

fn load_classifier(ebpf: &mut Ebpf, name: &'static str) -> Result<(), ObjectError> {
    let failed = |source| ObjectError::Program {
        name,
        source: Box::new(source),
    };
    let program: &mut SchedClassifier = ebpf
        .program_mut(name)
        .ok_or(ObjectError::Missing { name })?
        .try_into()
        .map_err(failed)?;
    program.load().map_err(failed)
}

fn padded(port: &Port) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..6].copy_from_slice(&port.inside_mac);
    bytes
}
