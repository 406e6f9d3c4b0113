//! Cases that no mutant fails, with the reason: the list is to shrink, and a case that a mutant names must leave it.

/// Cases of level documented or reference that no mutant fails, each with the reason why none does.
pub const UNNAMED: &[(&str, &str)] = &[(
    "archive/file/owner",
    "only root can make a file that is neither root's nor its own",
)];
