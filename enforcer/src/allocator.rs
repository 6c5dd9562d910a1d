//! Memory is the node's. Reading a list of pods and compiling policies takes more than what is kept of
//! them, and it is given back at once: with a hundred thousand pods and ten thousand policies 174 to 182
//! MiB are resident, and 229 to 253 without.

use std::ffi::{c_int, c_long};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 2 and 3, for which the crate has no name: milliseconds before
/// unused pages are given back.
const PURGE_DELAY: c_int = 15;
const AT_ONCE: c_long = 0;

/// To be called first of all.
pub fn give_back_at_once() {
    #[expect(
        unsafe_code,
        reason = "the allocator's options are behind its C interface"
    )]
    // SAFETY: a number is stored, before there are other threads; one that is unknown is ignored.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, AT_ONCE);
    }
    // A huge page stays while any of its five hundred is used.
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        eprintln!("huge pages stay on: {error}");
    }
}
