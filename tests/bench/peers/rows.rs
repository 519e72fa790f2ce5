//! What is measured, and what is wanted of it.
//!
//! Must not know how it is measured.

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Row {
    PullRate,
    PullCpu,
    PushRate,
    PushCpu,
    ManifestGet,
    BlobHead,
    SmallPush,
    ManifestPut,
    VmPush,
    VmAgain,
    VmPull,
    PullsMemory,
    FirstAnswer,
    IdleMemory,
}

/// Rows that are measured together, on one start of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    Large,
    Small,
    Push,
    Vm,
    Memory,
    Start,
}

/// What is wanted of ours.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// So many times the best of the others.
    TimesBest(f64),
    /// So many times the best of the other registries, which check what they are sent.
    TimesBestRegistry(f64),
    /// This figure, which depends on the machine.
    Figure(f64),
}

impl Group {
    pub(crate) const ALL: [Self; 6] = [
        Self::Large,
        Self::Small,
        Self::Push,
        Self::Vm,
        Self::Memory,
        Self::Start,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Large => "large",
            Self::Small => "small",
            Self::Push => "push",
            Self::Vm => "vm",
            Self::Memory => "memory",
            Self::Start => "start",
        }
    }

    /// Whether it is measured over TLS.
    pub(crate) fn is_tls(self) -> bool {
        match self {
            Self::Large | Self::Small | Self::Memory => true,
            Self::Push | Self::Vm | Self::Start => false,
        }
    }

    /// Whether a web server can do it.
    pub(crate) fn is_for_files(self) -> bool {
        match self {
            Self::Large | Self::Memory | Self::Start => true,
            Self::Small | Self::Push | Self::Vm => false,
        }
    }
}

impl Row {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PullRate => "pull 128 MiB, 4 at a time, MB/s",
            Self::PullCpu | Self::PushCpu => "… server CPU-s/GB",
            Self::PushRate => "push 128 MiB, streamed, 4 at a time, MB/s",
            Self::ManifestGet => "manifest GET by tag, 16 at a time, /s",
            Self::BlobHead => "blob HEAD, 16 at a time, /s",
            Self::SmallPush => "small push 4 KiB (plain), 16 at a time, /s",
            Self::ManifestPut => "manifest PUT (plain), 16 at a time, /s",
            Self::VmPush => "VM push (800 × 1–4 MiB, HEAD first, 8 workers; plain), MB/s",
            Self::VmAgain => "VM second version (95 % exists), checks/s",
            Self::VmPull => "VM pull, MB/s",
            Self::PullsMemory => "64 pulls at once, peak memory MiB",
            Self::FirstAnswer => "start to first answer, ms",
            Self::IdleMemory => "idle memory, MiB",
        }
    }

    /// Whether less is better.
    pub(crate) fn is_cost(self) -> bool {
        match self {
            Self::PullCpu
            | Self::PushCpu
            | Self::PullsMemory
            | Self::FirstAnswer
            | Self::IdleMemory => true,
            Self::PullRate
            | Self::PushRate
            | Self::ManifestGet
            | Self::BlobHead
            | Self::SmallPush
            | Self::ManifestPut
            | Self::VmPush
            | Self::VmAgain
            | Self::VmPull => false,
        }
    }

    pub(crate) fn goal(self) -> Goal {
        match self {
            Self::PullRate => Goal::TimesBest(1.15),
            Self::PullCpu => Goal::TimesBest(0.8),
            Self::PushRate | Self::VmPush => Goal::TimesBestRegistry(1.4),
            Self::PushCpu => Goal::Figure(1.4),
            Self::ManifestGet => Goal::Figure(20_000.0),
            Self::BlobHead => Goal::Figure(30_000.0),
            Self::SmallPush => Goal::TimesBestRegistry(1.5),
            Self::ManifestPut => Goal::TimesBestRegistry(2.0),
            Self::VmAgain => Goal::TimesBestRegistry(3.0),
            Self::VmPull => Goal::TimesBestRegistry(1.3),
            Self::PullsMemory => Goal::Figure(40.0),
            Self::FirstAnswer => Goal::Figure(10.0),
            Self::IdleMemory => Goal::Figure(15.0),
        }
    }

    /// What a run ends in error for: at least (of a cost: at most) so many times the best other registry. Less than was
    /// reached when it was written down, so that it tells of a step back and not of another machine.
    pub(crate) fn must(self) -> Option<f64> {
        match self {
            Self::PullRate | Self::PullCpu | Self::IdleMemory => Some(1.0),
            Self::ManifestGet | Self::BlobHead => Some(1.5),
            Self::PullsMemory => Some(0.5),
            Self::PushRate
            | Self::PushCpu
            | Self::SmallPush
            | Self::ManifestPut
            | Self::VmPush
            | Self::VmAgain
            | Self::VmPull
            | Self::FirstAnswer => None,
        }
    }
}
