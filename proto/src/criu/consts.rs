//! Constants of the image format that CRIU defines in C, not in its `.proto` files.

/// The directory of the images in an archive.
pub const IMAGE_DIR: &str = "checkpoint/";

/// `CRTOOLS_IMAGES_V1` (criu/include/magic.h): `img_version` of images with one magic.
pub const IMAGES_V1: u32 = 1;
/// `CRTOOLS_IMAGES_V1_1`: `img_version` of images with two magics.
pub const IMAGES_V1_1: u32 = 2;

/// `AT_VECTOR_SIZE`: the maximum number of words in `mm_saved_auxv` (criu/include/image.h).
pub const MAX_AUXV_WORDS: usize = 44;

/// `FD_CLOEXEC` in `fdinfo_entry.flags`.
pub const FDINFO_CLOEXEC: u32 = 1;

/// The bits of `vma_entry.status` (criu/include/image.h).
#[expect(missing_docs, reason = "the names are CRIU's, without VMA_ and VMA_AREA_")]
pub mod vma_status {
    pub const REGULAR: u32 = 1 << 0;
    pub const VSYSCALL: u32 = 1 << 2;
    pub const VDSO: u32 = 1 << 3;
    pub const HEAP: u32 = 1 << 5;
    pub const FILE_PRIVATE: u32 = 1 << 6;
    pub const FILE_SHARED: u32 = 1 << 7;
    pub const ANON_SHARED: u32 = 1 << 8;
    pub const ANON_PRIVATE: u32 = 1 << 9;
    pub const SYSVIPC: u32 = 1 << 10;
    pub const SOCKET: u32 = 1 << 11;
    pub const VVAR: u32 = 1 << 12;
    pub const AIORING: u32 = 1 << 13;
    pub const MEMFD: u32 = 1 << 14;
}

/// The values of `task_core_entry.task_state` (criu/include/pid.h, compel/include/uapi/task-state.h).
#[expect(missing_docs, reason = "the names are CRIU's")]
pub mod task_state {
    pub const ALIVE: u32 = 1;
    pub const DEAD: u32 = 2;
    pub const STOPPED: u32 = 3;
    pub const ZOMBIE: u32 = 6;
}

/// `PE_PRESENT` in `pagemap_entry.flags` (criu/include/pagemap.h): the pages are in the pages file.
pub const PE_PRESENT: u32 = 1 << 2;

/// The signals of `task_core_entry.sigactions` in their order: all but SIGKILL and SIGSTOP, which have no action.
pub fn sigaction_signals() -> impl Iterator<Item = u32> {
    (1..=64).filter(|signal| ![9, 19].contains(signal))
}
