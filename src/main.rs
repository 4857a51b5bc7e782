//! The program; all of it is in the library.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Gives the memory of clients that are gone back to the system, which the C library's allocator does not.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    high_templar::cli::main()
}
