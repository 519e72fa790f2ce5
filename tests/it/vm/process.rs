//! A registry as people run it: `boathouse up`, which can be killed and measured.

use super::wire::Site;
use crate::lab::{Lab, PASSWORD};
use crate::program::Program;

/// Far more than eight uploads at once hold in their buffers, and far less than a segment each.
const MEMORY_MAX_MIB: u64 = 256;

pub(super) struct Process {
    lab: Lab,
    program: Program,
}

impl Process {
    pub(super) async fn start() -> Self {
        let lab = Lab::empty();
        let program = up(&lab).await;
        Self { lab, program }
    }

    /// SIGKILL: nothing in it gets to run any more. Then it is started again where it was.
    pub(super) async fn kill_and_start(&mut self) {
        self.program.kill();
        self.program = up(&self.lab).await;
    }

    pub(super) fn site(&self) -> Site {
        Site {
            target: self.lab.target("home", self.program.address()),
            user: "admin",
            password: PASSWORD,
        }
    }

    /// No body is ever in memory as a whole: what it has had at most does not grow with what was pushed.
    pub(super) fn check_memory(&self) {
        let Some(memory) = self.program.memory() else {
            println!("this system does not tell how much memory a process has had");
            return;
        };
        let peak_mib = memory.peak / 1024 / 1024;
        println!("the server's memory at its peak: {peak_mib} MiB");
        assert!(peak_mib < MEMORY_MAX_MIB, "{peak_mib} MiB");
    }
}

async fn up(lab: &Lab) -> Program {
    let mut command = lab.up_command("home", &[]);
    command.env("REGISTRY_HTTP_HTTP2_DISABLED", "false");
    let mut program = Program::start(&lab.path("log"), &mut command);
    program.listens().await;
    program
}
