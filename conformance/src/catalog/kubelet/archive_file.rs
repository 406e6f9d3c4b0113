//! The archive: its name, its place, its format, who may read it.

use std::{os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use jiff::Timestamp;

use super::session::{Session, TAR};
use crate::{
    archive::End,
    case::{Case, Clause, Judgement, Level, Stop, fail, judge, pass},
    catalog::authority,
    target::ContainerRef,
};

const FORMAT: &str = "kubelet/name/timestamp-format";
const FORM: &str = "kubelet/name/form";

pub(super) const CASES: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: FORM,
            clause: "the archive is called checkpoint-<podFullName>-<containerName>-<timestamp>.tar, a Pod's full name \
                     being <pod>_<namespace>",
            authority: authority::OPERATIONS,
            motivation: "",
            level: Level::Documented,
            expected: "checkpoint-<pod>_<namespace>-<container>-<timestamp>.tar",
        },
        |s| Box::pin(form(s)),
    ),
    Case::new(
        Clause {
            id: FORMAT,
            clause: "the timestamp in the name must be RFC 3339, with or without a fraction of a second",
            authority: authority::KUBELET,
            motivation: "",
            level: Level::Reference,
            expected: "2006-01-02T15:04:05Z, 2006-01-02T15:04:05.999Z, or either with an offset",
        },
        |s| Box::pin(timestamp_format(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/name/timestamp-zone",
            clause: "the timestamp in the name is in the kubelet's local zone",
            authority: authority::KUBELET,
            motivation: "",
            level: Level::Reference,
            expected: "the offset of this machine's zone, Z where that is none",
        },
        |s| Box::pin(timestamp_zone(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/name/place",
            clause: "the archive is stored in `checkpoints` below the kubelet's root directory",
            authority: authority::OPERATIONS,
            motivation: "",
            level: Level::Documented,
            expected: "directly in `checkpoints`",
        },
        |s| Box::pin(place(s)),
    ),
    Case::new(
        Clause {
            id: TAR,
            clause: "the archive is a tar that can be listed",
            authority: authority::OPERATIONS,
            motivation: "",
            level: Level::Documented,
            expected: "at least one member, each of them whole",
        },
        |s| Box::pin(lists(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/archive/upstream-members",
            clause: "an archive in CRIU's format has the members that upstream's own test of the endpoint wants",
            authority: authority::E2E,
            motivation: "",
            level: Level::Reference,
            expected: "spec.dump, config.dump, checkpoint/inventory.img",
        },
        |s| Box::pin(upstream_members(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/access/file",
            clause: "the archive is accessible by root only: it holds all memory of the container",
            authority: authority::INTRODUCTION,
            motivation: "",
            level: Level::Documented,
            expected: "no permission for group and others, owned by root (or by the runtime's user where that is not root)",
        },
        |s| Box::pin(file_access(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/access/folder",
            clause: "the folder `checkpoints` has mode 0700",
            authority: authority::KUBELET,
            motivation: "",
            level: Level::Reference,
            expected: "0700",
        },
        |s| Box::pin(folder_access(s)),
    ),
];

/// What asks for another checkpoint, some time after the kubelet's start.
pub(super) const FURTHER: &[Case<Session>] = &[Case::new(
    Clause {
        id: "kubelet/name/timestamp",
        clause: "the timestamp in the name is the time of the call",
        authority: authority::OPERATIONS,
        motivation: "",
        level: Level::Documented,
        expected: "a time between the request and its answer",
    },
    |s| Box::pin(timestamp(s)),
)];

/// The location of the first archive.
async fn location(s: &Session) -> Result<&Path, Stop> {
    s.made().await?.location.as_deref().map(Path::new).ok_or_else(nowhere)
}

fn nowhere() -> Stop {
    Stop::Skip("neither body, journal nor folder says where the archive is".to_owned())
}

/// What stands in the name where the timestamp should; `None` when the rest of the name is not as it should be.
fn stamp_of<'a>(subject: &ContainerRef, location: &'a Path) -> Option<&'a str> {
    let prefix = format!(
        "checkpoint-{}_{}-{}-",
        subject.pod, subject.namespace, subject.container
    );
    let name = location.file_name()?.to_str()?;
    let stamp = name.strip_prefix(prefix.as_str())?.strip_suffix(".tar")?;
    (!stamp.is_empty()).then_some(stamp)
}

/// That of the first archive.
async fn stamp(s: &Session) -> Result<Option<&str>, Stop> {
    Ok(stamp_of(s.subject(), location(s).await?))
}

async fn form(s: &Session) -> Judgement {
    let seen = location(s)
        .await?
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    judge(stamp(s).await?.is_some(), seen)
}

/// RFC 3339 as Go's `time.RFC3339` or `time.RFC3339Nano` writes it: the time, and the zone as it is written.
fn parse_stamp(stamp: &str) -> Option<(Timestamp, &str)> {
    let rest = stamp.get(19..)?;
    let fraction = match rest.strip_prefix('.') {
        Some(digits) => 1 + digits.bytes().take_while(u8::is_ascii_digit).count(),
        None => 0,
    };
    let zone = rest.get(fraction..)?;
    let numeric = zone.len() == 6 && zone.as_bytes()[3] == b':';
    if fraction == 1 || stamp.as_bytes()[10] != b'T' || !(zone == "Z" || numeric) {
        return None;
    }
    Some((stamp.parse().ok()?, zone))
}

async fn timestamp_format(s: &Session) -> Judgement {
    let stamp = stamp(s).await?.ok_or(Stop::Blocked(FORM))?;
    judge(parse_stamp(stamp).is_some(), stamp)
}

async fn timestamp_zone(s: &Session) -> Judgement {
    if s.kubelet.steering.is_none() {
        // Its environment may name another zone than ours does, on this machine as well.
        return Err(Stop::Skip("needs a kubelet that is started here".to_owned()));
    }
    let stamp = stamp(s).await?.ok_or(Stop::Blocked(FORM))?;
    let (time, zone) = parse_stamp(stamp).ok_or(Stop::Blocked(FORMAT))?;
    let local = jiff::tz::TimeZone::system().to_offset(time);
    let local = match local.seconds() {
        0 => "Z".to_owned(),
        _ => time.display_with_offset(local).to_string().split_off(19),
    };
    judge(zone == local, format!("{stamp}, where {local} is local"))
}

async fn timestamp(s: &Session) -> Judgement {
    // A kubelet that was started within this second could not tell the call's time from its start's.
    s.older_than(Duration::from_millis(1100)).await;
    s.again().await?;
    let call = s.attempt(s.subject()).await?;
    let location = call.location.as_deref().map(Path::new).ok_or_else(nowhere)?;
    let stamp = stamp_of(s.subject(), location).ok_or(Stop::Blocked(FORM))?;
    // The page does not say which form a timestamp has; one in no known form cannot be judged.
    let time = parse_stamp(stamp)
        .map(|(time, _)| time)
        .or_else(|| stamp.parse().ok())
        .or_else(|| Timestamp::from_second(stamp.parse().ok()?).ok())
        .ok_or(Stop::Blocked(FORMAT))?;
    // Another machine's clock is not ours: there the answer's own date says when it was given.
    let date = jiff::fmt::rfc2822::parse(call.answer.header("date")).map(|date| date.timestamp());
    let (began, ended) = match date {
        Ok(date) if !s.kubelet.local => (date - call.ended.duration_since(call.began), date),
        _ => (call.began, call.ended),
    };
    let seconds = time.as_second();
    let holds = began.as_second() <= seconds && seconds <= ended.as_second();
    judge(holds, format!("{stamp}, asked at {began:.3}, answered at {ended:.3}"))
}

async fn place(s: &Session) -> Judgement {
    let location = location(s).await?;
    let parent = location.parent().unwrap_or(Path::new(""));
    let seen = location.display().to_string();
    match &s.kubelet.checkpoints {
        Some(folder) if s.kubelet.local => judge(parent == folder, seen),
        _ => judge(location.is_absolute() && parent.ends_with("checkpoints"), seen),
    }
}

async fn lists(s: &Session) -> Judgement {
    let archive = s.inspected().await?;
    let members = archive.members.len();
    match &archive.end {
        End::Marker if members > 0 => pass(format!("{members} members")),
        // Tools list it; the archive suite has a case of its own for the marker.
        End::NoMarker if members > 0 => pass(format!("{members} members, without the end marker")),
        End::Marker | End::NoMarker => fail("no member"),
        End::Empty => fail("not one byte"),
        End::Broken(broken) => fail(format!("{members} members, then {broken}")),
        End::Bound { offset, bound } => Err(Stop::Error(format!("not read beyond byte {offset}: {bound}"))),
    }
}

async fn upstream_members(s: &Session) -> Judgement {
    let archive = s.listing().await?;
    if !archive.is_criu() {
        return Err(Stop::Skip("the archive is not in CRIU's format".to_owned()));
    }
    let wanted = ["spec.dump", "config.dump", "checkpoint/inventory.img"];
    let missing: Vec<_> = wanted
        .into_iter()
        .filter(|name| archive.member(name).is_none())
        .collect();
    if missing.is_empty() {
        pass("all three")
    } else {
        fail(format!("without {}", missing.join(", ")))
    }
}

async fn file_access(s: &Session) -> Judgement {
    let file = s.file().await?;
    let private = file.mode & 0o077 == 0;
    let owned = file.uid == 0 || file.uid == s.kubelet.owner;
    let whose = match file.uid {
        0 => "root's",
        uid if uid == s.kubelet.owner => "the runtime's user's, who is not root",
        _ => "another user's",
    };
    judge(
        private && owned,
        format!("mode {:04o}, {whose} (uid {})", file.mode, file.uid),
    )
}

async fn folder_access(s: &Session) -> Judgement {
    let Some(folder) = &s.kubelet.checkpoints else {
        return Err(Stop::Skip("needs the kubelet's archives: --checkpoints-dir".to_owned()));
    };
    let metadata = std::fs::metadata(folder).map_err(|error| Stop::Error(format!("{}: {error}", folder.display())))?;
    let mode = metadata.permissions().mode() & 0o7777;
    judge(mode == 0o700, format!("{mode:04o}"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("2026-03-04T05:06:07Z", true)]
    #[case("2026-03-04T05:06:07+02:00", true)]
    #[case("2026-03-04T05:06:07-11:30", true)]
    #[case("2026-03-04T05:06:07.5Z", true)]
    #[case("2026-03-04T05:06:07.123456789+02:00", true)]
    #[case("2026-03-04T05:06:07.Z", false)]
    #[case("2026-03-04 05:06:07Z", false)]
    #[case("2026-13-04T05:06:07Z", false)]
    #[case("1772600767", false)]
    #[case("2026-03-04T05:06:07", false)]
    fn timestamps_as_go_writes_them(#[case] stamp: &str, #[case] holds: bool) {
        assert_eq!(parse_stamp(stamp).is_some(), holds);
    }
}
