//! The `seriatim` program.

fn main() {}
