//! The `credlet` command.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// glibc's allocator never gives back what a crowd of connections took; this one does within seconds, from a thread of its own
/// (`cargo bench --bench footprint`).
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    credlet::cli::main()
}
