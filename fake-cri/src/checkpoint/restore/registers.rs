//! Sets the registers of a thread from its image. One file for each architecture; on other architectures every restore
//! fails.

#[cfg(target_arch = "x86_64")]
#[path = "registers/x86_64.rs"]
mod machine;

#[cfg(target_arch = "x86_64")]
pub(super) use self::machine::{check, check_machine, check_supported, same_registers, set};

#[cfg(not(target_arch = "x86_64"))]
mod machine {
    use cri_proto::criu::message::CoreEntry;

    use super::super::RestoreError;

    pub(crate) fn check_supported() -> Result<(), RestoreError> {
        let detail = format!("restore is not implemented for {}", std::env::consts::ARCH);
        Err(RestoreError::MachineMismatch(detail))
    }

    pub(crate) fn check_machine(_core: &CoreEntry) -> Result<(), RestoreError> {
        check_supported()
    }

    pub(crate) fn check(_core: &CoreEntry) -> Result<(), RestoreError> {
        check_supported()
    }

    pub(crate) fn same_registers(_one: &CoreEntry, _other: &CoreEntry) -> bool {
        false
    }

    pub(crate) fn set(_tid: crate::process::Tid, _core: &CoreEntry) -> Result<(), RestoreError> {
        check_supported()
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) use self::machine::{check, check_machine, check_supported, same_registers, set};
