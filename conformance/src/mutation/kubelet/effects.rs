//! Kubelets that do more than they answer: refused requests that are carried out, further files, changed archives,
//! checkpoints that wait for each other.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;
use http::request::Parts;

use super::{Mutant, archive_of, call_runtime, checkpoint_names, kubelet, replace};
use crate::reference_kubelet::{checkpoint::timeout, server::Handlers};

const ACCEPTED_ONLY: &[&str] = &["kubelet/checkpoint/accepted-requests-only"];
const EARLIER_ARCHIVES: &[&str] = &["kubelet/archive/earlier-archives-unchanged"];
const ONE_FILE: &[&str] = &["kubelet/checkpoints-dir/one-file-per-checkpoint"];

pub(super) const MUTANTS: &[Mutant] = &[
    // Refused requests.
    kubelet("unauthenticated-checkpointed")
        .summary("returns 401 and makes the checkpoint all the same")
        .defect(replace!(after_refusal, |handlers, request, status| {
            carry_out(handlers, request, status == StatusCode::UNAUTHORIZED)
        }))
        .must_fail(ACCEPTED_ONLY),
    kubelet("unauthorized-checkpointed")
        .summary("returns 403 and makes the checkpoint all the same")
        .defect(replace!(after_refusal, |handlers, request, status| {
            carry_out(handlers, request, status == StatusCode::FORBIDDEN)
        }))
        .must_fail(ACCEPTED_ONLY),
    kubelet("wrong-method-checkpointed")
        .summary("returns 405 and makes the checkpoint all the same")
        .defect(replace!(after_refusal, |handlers, request, status| {
            carry_out(handlers, request, status == StatusCode::METHOD_NOT_ALLOWED)
        }))
        .must_fail(&["kubelet/checkpoint/accepted-requests-only", "kubelet/method/post-only"]),
    kubelet("not-acceptable-checkpointed")
        .summary("returns 406 and makes the checkpoint all the same")
        .defect(replace!(after_refusal, |handlers, request, status| {
            carry_out(handlers, request, status == StatusCode::NOT_ACCEPTABLE)
        }))
        .must_fail(ACCEPTED_ONLY),
    kubelet("malformed-timeout-checkpointed")
        .summary("returns 404 for a malformed timeout and makes the checkpoint all the same")
        .defect(replace!(after_refusal, |handlers, request, status| {
            let is_malformed = timeout::parse(request.uri.query()).is_err();
            carry_out(handlers, request, status == StatusCode::NOT_FOUND && is_malformed)
        }))
        .must_fail(&[
            "kubelet/checkpoint/accepted-requests-only",
            "kubelet/metrics/accepted-requests-only",
        ]),
    kubelet("refused-request-counted")
        .summary("counts a request with 404 as an operation of the runtime")
        .defect(replace!(after_refusal, |handlers, _, status| {
            if status == StatusCode::NOT_FOUND {
                handlers.cri.count_operation("checkpoint_container", true);
            }
            Box::pin(std::future::ready(()))
        }))
        .must_fail(&["kubelet/metrics/accepted-requests-only"]),
    // Earlier archives.
    kubelet("two-archives-kept")
        .summary("keeps the last two archives")
        .defect(replace!(edit_response, |_, _, response| {
            edit(archive_of(&response), |archive| keep_last(archive, 2));
            response
        }))
        .must_fail(EARLIER_ARCHIVES),
    kubelet("five-archives-kept")
        .summary("keeps the last five archives")
        .defect(replace!(edit_response, |_, _, response| {
            edit(archive_of(&response), |archive| keep_last(archive, 5));
            response
        }))
        .must_fail(EARLIER_ARCHIVES),
    kubelet("earlier-archives-truncated")
        .summary("truncates earlier archives")
        .defect(replace!(edit_response, |_, _, response| {
            edit(archive_of(&response), |archive| {
                for path in earlier_archives(archive)? {
                    fs::File::options().write(true).open(path)?.set_len(512)?;
                }
                Ok(())
            });
            response
        }))
        .must_fail(EARLIER_ARCHIVES),
    kubelet("earlier-archives-extended")
        .summary("appends to earlier archives")
        .defect(replace!(edit_response, |_, _, response| {
            edit(archive_of(&response), |archive| {
                for path in earlier_archives(archive)? {
                    fs::File::options().append(true).open(path)?.write_all(&[0; 512])?;
                }
                Ok(())
            });
            response
        }))
        .must_fail(EARLIER_ARCHIVES),
    kubelet("earlier-archives-readable")
        .summary("makes earlier archives readable for the group")
        .defect(replace!(edit_response, |_, _, response| {
            edit(archive_of(&response), |archive| {
                for path in earlier_archives(archive)? {
                    fs::set_permissions(path, Permissions::from_mode(0o640))?;
                }
                Ok(())
            });
            response
        }))
        .must_fail(EARLIER_ARCHIVES),
    // Further files.
    kubelet("archive-copied")
        .summary("writes a second copy of an archive")
        .defect(replace!(edit_response, |_, _, response| {
            edit(archive_of(&response), |archive| {
                fs::copy(archive, archive.with_extension("tar.bak")).map(drop)
            });
            response
        }))
        .must_fail(ONE_FILE),
    kubelet("archive-linked")
        .summary("gives an archive a second name")
        .defect(replace!(edit_response, |_, _, response| {
            edit(archive_of(&response), |archive| {
                fs::hard_link(archive, archive.with_extension("tar.link"))
            });
            response
        }))
        .must_fail(ONE_FILE),
    kubelet("latest-archive-linked")
        .summary("keeps a symlink to the latest archive")
        .defect(replace!(edit_response, |_, _, response| {
            edit(archive_of(&response), |archive| {
                let link = archive.with_file_name("checkpoint-latest.tar");
                let _ = fs::remove_file(&link);
                symlink(archive, link)
            });
            response
        }))
        .must_fail(ONE_FILE),
    kubelet("temporary-file-left")
        .summary("leaves a temporary file beside an archive")
        .defect(replace!(edit_response, |_, _, response| {
            edit(archive_of(&response), |archive| {
                fs::write(archive.with_extension("tmp"), b"partial")
            });
            response
        }))
        .must_fail(ONE_FILE),
    kubelet("archive-executable")
        .summary("gives the archive mode 0700")
        .defect(replace!(edit_response, |_, _, response| {
            edit(archive_of(&response), |archive| {
                fs::set_permissions(archive, Permissions::from_mode(0o700))
            });
            response
        }))
        .must_fail(ONE_FILE),
    // Concurrency.
    kubelet("one-waits-for-another")
        .summary("makes the checkpoints of the node one after the other")
        .defect(replace!(call_runtime, |cri, deadline, message| {
            let turn = turn_of(Arc::as_ptr(&cri) as usize);
            Box::pin(async move {
                let _turn = turn.lock().await;
                call_runtime(cri, deadline, message).await
            })
        }))
        .must_fail(&["kubelet/concurrency/other-container"]),
];

/// Handles a refused checkpoint request as if it had been accepted.
fn carry_out(handlers: &Arc<Handlers>, request: &Parts, applies: bool) -> futures_util::future::BoxFuture<'static, ()> {
    let names = checkpoint_names(request).filter(|_| applies);
    let handlers = Arc::clone(handlers);
    let mut request = request.clone();
    // Without the parameter that may be malformed.
    if let Ok(path) = request.uri.path().parse() {
        request.uri = path;
    }
    Box::pin(async move {
        if let Some(names) = names {
            let _ = handlers.checkpoints.handle(&names, &request).await;
        }
    })
}

/// Errors are ignored: without the defect the mutant is reported as not caught.
fn edit(archive: Option<PathBuf>, edit: fn(&Path) -> std::io::Result<()>) {
    if let Some(archive) = archive {
        let _ = edit(&archive);
    }
}

/// The other archives of the directory, oldest first.
fn earlier_archives(archive: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut archives = Vec::new();
    for entry in fs::read_dir(archive.parent().unwrap_or(archive))?.flatten() {
        let is_archive = entry.file_name().as_encoded_bytes().starts_with(b"checkpoint-");
        if is_archive && entry.path() != archive {
            archives.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    archives.sort();
    Ok(archives.into_iter().map(|(_, path)| path).collect())
}

fn keep_last(archive: &Path, count: usize) -> std::io::Result<()> {
    let earlier = earlier_archives(archive)?;
    let surplus = (earlier.len() + 1).saturating_sub(count);
    earlier.iter().take(surplus).try_for_each(fs::remove_file)
}

/// The lock that the calls over one connection to the runtime take in turn.
fn turn_of(connection: usize) -> Arc<tokio::sync::Mutex<()>> {
    static TURNS: Mutex<BTreeMap<usize, Arc<tokio::sync::Mutex<()>>>> = Mutex::new(BTreeMap::new());
    let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(turns.entry(connection).or_default())
}
