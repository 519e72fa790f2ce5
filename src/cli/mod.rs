//! x
pub mod check;

pub fn main() -> std::process::ExitCode {
    todo!()
}
