//! The numbers of processes, threads and fds.
//!
//! All are integers in the kernel's interface. Separate types keep pids, tids and the numbers of another pid namespace
//! apart.

use std::{fmt, num::ParseIntError, str::FromStr};

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$attribute:meta])* $name:ident($raw:ty)) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name($raw);

        impl $name {
            /// The number as the kernel returned it. It is not checked.
            pub const fn from_raw(raw: $raw) -> Self {
                Self(raw)
            }

            /// The number for a system call or a record.
            pub const fn as_raw(self) -> $raw {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, formatter)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, formatter)
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;

            fn from_str(text: &str) -> Result<Self, ParseIntError> {
                text.parse().map(Self)
            }
        }
    };
}

number! {
    /// A process in the pid namespace of fake-cri. Process groups and sessions have the pid of their leader.
    Pid(i32)
}

number! {
    /// A thread in the pid namespace of fake-cri.
    Tid(i32)
}

number! {
    /// A process or thread, process group or session in the pid namespace of a container, as images store it.
    NsPid(u32)
}

number! {
    /// An fd of another process. As an fd of this process it would be another file, or none.
    RemoteFd(i32)
}

impl From<Pid> for nix::unistd::Pid {
    fn from(pid: Pid) -> Self {
        Self::from_raw(pid.0)
    }
}

impl From<Tid> for nix::unistd::Pid {
    fn from(tid: Tid) -> Self {
        Self::from_raw(tid.0)
    }
}

/// The id in the name of an image, or an argument of a system call.
impl From<NsPid> for u64 {
    fn from(ns_pid: NsPid) -> Self {
        ns_pid.0.into()
    }
}

impl Pid {
    /// The kernel's value for no process: the parent of a process whose parent is in another pid namespace.
    pub const NONE: Self = Self(0);

    /// The pid of this process.
    pub fn current() -> Self {
        Self(std::process::id().cast_signed())
    }

    /// The thread group leader. It may have exited before the other threads.
    pub const fn main_thread(self) -> Tid {
        Tid(self.0)
    }
}

impl Tid {
    /// The process that this thread leads, if it is a leader.
    pub const fn led_process(self) -> Pid {
        Pid(self.0)
    }

    /// The calling thread.
    pub fn current() -> Self {
        Self(nix::unistd::gettid().as_raw())
    }
}
