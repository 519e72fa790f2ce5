//! The `boathouse` program: everything is in the library, see `boathouse::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    boathouse::cli::main()
}
