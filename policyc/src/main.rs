//! The policy compiler's command line.
#![forbid(unsafe_code)]

mod cli;

/// Reading manifests is mostly allocating, on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
