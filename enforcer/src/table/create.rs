//! Makes the maps whose size is chosen when the agent starts, and so cannot come from the object:
//! the tables, and the map of tables that fixes their size for the verifier.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use aya::maps::{MapData, MapError};
use enforcer_ebpf::{maps::TABLES, words::SLOTS};

/// BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_F_MMAPABLE and BPF_MAP_CREATE of the kernel.
const ARRAY: u32 = 2;
const ARRAY_OF_MAPS: u32 = 12;
const MMAPABLE: u32 = 1 << 10;
const MAP_CREATE: libc::c_long = 0;

/// What can go wrong when a map is made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error("cannot make a table of {capacity} words")]
    Inner {
        capacity: u32,
        #[source]
        source: Box<MapError>,
    },
    #[error("cannot make the map of tables")]
    Outer {
        #[source]
        source: io::Error,
    },
    #[error("the new map of tables cannot be used")]
    Unusable {
        #[source]
        source: Box<MapError>,
    },
}

/// One table: an array of one element, whose value is `capacity` words.
pub fn inner(capacity: u32) -> Result<MapData, CreateError> {
    let definition = aya_obj::Map::new_from_params(ARRAY, 4, capacity * 4, 1, MMAPABLE);
    MapData::create(definition, "table", None).map_err(|source| CreateError::Inner {
        capacity,
        source: Box::new(source),
    })
}

/// The map of tables. Every table in it holds exactly `capacity` words, which is what the verifier
/// lets the programs read.
pub fn create_outer(capacity: u32) -> Result<MapData, CreateError> {
    let template = inner(capacity)?;
    let fd = create_map_of_maps(&template).map_err(|source| CreateError::Outer { source })?;
    MapData::from_fd(fd).map_err(|source| CreateError::Unusable {
        source: Box::new(source),
    })
}

/// The part of `union bpf_attr` that BPF_MAP_CREATE reads, up to the name.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
}

#[expect(unsafe_code, reason = "aya makes maps of maps only from an object")]
fn create_map_of_maps(template: &MapData) -> io::Result<OwnedFd> {
    let mut name = [0u8; 16];
    name[..TABLES.len()].copy_from_slice(TABLES.as_bytes());
    let attributes = MapCreate {
        map_type: ARRAY_OF_MAPS,
        key_size: 4,
        value_size: 4,
        max_entries: SLOTS,
        map_flags: 0,
        inner_map_fd: u32::try_from(template.fd().as_fd().as_raw_fd())
            .map_err(|_| io::ErrorKind::InvalidInput)?,
        numa_node: 0,
        name,
    };
    // SAFETY: the kernel reads size_of::<MapCreate>() bytes of a value that lives through the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            MAP_CREATE,
            &raw const attributes,
            size_of::<MapCreate>(),
        )
    };
    let fd = i32::try_from(answer).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel has just given to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
