//! The `seriatim` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    seriatim::cli::main()
}
