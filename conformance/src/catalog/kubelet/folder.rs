//! The folder `checkpoints` and what lies in it: made at the kubelet's start, and left alone by it ever after.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::session::Session;
use crate::{
    case::{Case, Clause, Judgement, Level, Stop, fail, judge, pass},
    catalog::authority,
    target::{Evidence, Variation},
};

pub(super) const CASES: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: "kubelet/archive/untouched",
            clause: "the kubelet neither deletes nor changes an archive that is there when it makes another one",
            authority: authority::KUBELET,
            motivation: "",
            level: Level::Reference,
            expected: "the same file, of the same length and mode",
        },
        |s| Box::pin(untouched(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/200/unchecked",
            clause: "the kubelet takes the word of the runtime: it does not look whether there is an archive",
            authority: authority::KUBELET,
            motivation: "",
            level: Level::Reference,
            expected: "200 when the runtime says ok and has written nothing",
        },
        |s| Box::pin(unchecked(s)),
    ),
];

/// What makes a checkpoint and restarts the kubelet.
pub(super) const KEPT: &[Case<Session>] = &[Case::new(
    Clause {
        id: "kubelet/archive/kept-at-restart",
        clause: "archives outlive a restart of the kubelet",
        authority: authority::KUBELET,
        motivation: "",
        level: Level::Reference,
        expected: "the same file, of the same length and mode",
    },
    |s| Box::pin(kept_at_restart(s)),
)];

/// What restarts the kubelet without its folder.
pub(super) const RESTARTING: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: "kubelet/folder/made",
            clause: "the folder `checkpoints` is made when the kubelet starts, before anyone asks for a checkpoint",
            authority: authority::KUBELET,
            motivation: "",
            level: Level::Reference,
            expected: "there",
        },
        |s| Box::pin(made(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/folder/gate-off",
            clause: "with the gate off the folder `checkpoints` is not made",
            authority: authority::KUBELET,
            motivation: "",
            level: Level::Reference,
            expected: "not there",
        },
        |s| Box::pin(gate_off(s)),
    ),
];

/// The archive of one more checkpoint, where it can be looked at.
async fn archive(s: &Session) -> Result<Evidence, Stop> {
    // Whether there is one at all is judged of the first.
    s.file().await?;
    s.again().await?;
    match s.attempt(s.subject()).await?.file {
        Ok(file) => Ok(file),
        Err(_) => Err(Stop::Blocked(super::session::ARCHIVE)),
    }
}

fn is_same(before: &Evidence) -> Judgement {
    match Evidence::of(&before.path) {
        Ok(after) if after == *before => pass(format!("{} bytes, as before", after.length)),
        Ok(after) => fail(format!(
            "{} bytes, mode {:04o}; before {} bytes, mode {:04o}, or another file",
            after.length, after.mode, before.length, before.mode
        )),
        Err(error) => fail(format!("{}: {error}", before.path.display())),
    }
}

async fn untouched(s: &Session) -> Judgement {
    // One of its own: others may have been made in the second of the first one, over it.
    let before = archive(s).await?;
    s.unused_name(s.subject()).await;
    let answer = s.kubelet.checkpoint(s.subject(), "").await?;
    if answer.status != 200 {
        return Err(Stop::Blocked("kubelet/robust/second-checkpoint"));
    }
    is_same(&before)
}

async fn unchecked(s: &Session) -> Judgement {
    s.file().await?;
    s.again().await?;
    let faults = s.faults()?;
    // Where there is another container, no second has to pass until an archive of its has a new name.
    let container = s.kubelet.neighbours.running.as_ref().unwrap_or(s.subject());
    faults.add(&[&super::rule(container, "write", "no-archive")]).await?;
    s.unused_name(container).await;
    let answer = s.kubelet.checkpoint(container, "").await?;
    judge(answer.status == 200, answer.brief())
}

/// The folder, of a kubelet that can be restarted from here.
fn own_folder(s: &Session) -> Result<&Path, Stop> {
    let reason = "needs a kubelet that is started here";
    let folder = s
        .kubelet
        .checkpoints
        .as_deref()
        .filter(|_| s.kubelet.steering.is_some());
    folder.ok_or_else(|| Stop::Skip(reason.to_owned()))
}

async fn restart(s: &Session, variation: Variation) -> Result<(), Stop> {
    s.sound()?;
    Ok(s.kubelet.restart(variation).await.unwrap_or(Ok(()))?)
}

async fn kept_at_restart(s: &Session) -> Judgement {
    own_folder(s)?;
    let before = archive(s).await?;
    restart(s, Variation::Usual).await?;
    is_same(&before)
}

/// The folder, moved out of the kubelet's sight. Put back when this is dropped, also when the case is cut short.
struct Aside<'a> {
    folder: &'a Path,
    aside: PathBuf,
}

impl Aside<'_> {
    fn move_away(folder: &Path) -> Result<Aside<'_>, Stop> {
        let aside = folder.with_extension("aside");
        fs::rename(folder, &aside).map_err(|error| Stop::Error(format!("{}: {error}", folder.display())))?;
        Ok(Aside { folder, aside })
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        // What was made meanwhile holds no archive; the one of before has all that the other cases look at.
        let _ = fs::remove_dir_all(self.folder);
        let _ = fs::rename(&self.aside, self.folder);
    }
}

async fn made(s: &Session) -> Judgement {
    let folder = own_folder(s)?;
    s.served().await?;
    let _aside = Aside::move_away(folder)?;
    restart(s, Variation::Usual).await?;
    let made = folder.is_dir();
    judge(made, if made { "there" } else { "not there" })
}

async fn gate_off(s: &Session) -> Judgement {
    let folder = own_folder(s)?;
    s.served().await?;
    let _aside = Aside::move_away(folder)?;
    restart(s, Variation::GateOff).await?;
    let made = folder.exists();
    judge(!made, if made { "there" } else { "not there" })
}
