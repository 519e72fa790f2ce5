//! The `boathouse` program: everything is in the library, see `boathouse::cli`.

use std::process::ExitCode;

use boathouse::platform;

#[global_allocator]
static ALLOCATOR: platform::Allocator = platform::ALLOCATOR;

fn main() -> ExitCode {
    boathouse::cli::main()
}
