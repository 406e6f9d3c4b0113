//! Of spec.dump as a request to the runtime that restores: nothing in it may give the container more than its Pod asks for.

use std::path::Path;

use super::given::{ArchiveCase, Complaints, case, none, source, spec};
use crate::{archive::Inspected, case::Judgement};

/// Keys of the Container Device Interface (its specification, "Kubernetes annotations").
const CDI_PREFIX: &str = "cdi.k8s.io/";
/// Devices that every container has (OCI runtime specification, config-linux.md, "Default Devices"), and the usual terminals.
const DEFAULT_DEVICES: [&str; 8] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/console",
    "/dev/ptmx",
];

pub(super) const CASES: &[ArchiveCase] = &[
    case!(
        "spec/no-hooks",
        Robust,
        "OCI runtime specification (config.md: POSIX-platform hooks): a runtime runs them as root on the host",
        "spec.dump must have no hooks, as a restore that takes them over runs commands of the archive on the host.",
        "no hook",
        hooks
    ),
    case!(
        "spec/no-devices",
        Robust,
        "OCI runtime specification (config-linux.md: devices)",
        "spec.dump must ask for no device beyond the default ones, as devices are granted by the Pod and its node.",
        "no device but the default ones",
        devices
    ),
    case!(
        "spec/no-cdi",
        Robust,
        source::CDI,
        "No annotation of the archive may ask for devices of the Container Device Interface.",
        "no annotation cdi.k8s.io/*",
        cdi
    ),
];

fn hooks(archive: &Inspected) -> Judgement {
    let spec = spec(archive)?;
    let mut bad = Complaints::default();
    if let Some(hooks) = spec.hooks() {
        // The one that is deprecated is run as well.
        #[allow(deprecated, reason = "runtimes still run hooks of this kind")]
        let prestart = hooks.prestart();
        let all = [
            ("prestart", prestart),
            ("createRuntime", hooks.create_runtime()),
            ("createContainer", hooks.create_container()),
            ("startContainer", hooks.start_container()),
            ("poststart", hooks.poststart()),
            ("poststop", hooks.poststop()),
        ];
        for (kind, hooks) in all {
            for hook in hooks.iter().flatten() {
                bad.add(|| format!("{kind} {:?}", hook.path()));
            }
        }
    }
    bad.judge("no hook")
}

fn devices(archive: &Inspected) -> Judgement {
    let spec = spec(archive)?;
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    let known = |path: &Path| DEFAULT_DEVICES.iter().any(|default| path == Path::new(default));
    let more = devices.into_iter().flatten().filter(|device| !known(device.path()));
    none(more.map(|device| format!("{:?}", device.path())), "no device")
}

fn cdi(archive: &Inspected) -> Judgement {
    let spec = spec(archive)?;
    let of_spec = spec.annotations().iter().flatten().map(|(key, _)| ("spec.dump", key));
    let status = archive.documents.status_dump.read();
    let of_status = status
        .into_iter()
        .flat_map(|status| status.annotations.keys())
        .map(|key| ("status.dump", key));
    let asked = of_spec.chain(of_status).filter(|(_, key)| key.starts_with(CDI_PREFIX));
    none(
        asked.map(|(document, key)| format!("{document} has {key:?}")),
        "no annotation",
    )
}
