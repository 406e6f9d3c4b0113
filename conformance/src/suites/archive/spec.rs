//! spec.dump as input of a restore: it must not give the container more than its Pod requests.

use std::path::Path;

use super::preconditions::{ArchiveCase, Problems, pass_unless, require_spec_dump};
use crate::{
    archive::InspectedArchive,
    engine::{Authority, CaseResult, Level, case},
    suites::authority,
};

/// Prefix of Container Device Interface keys (CDI specification, "Kubernetes annotations").
const CDI_PREFIX: &str = "cdi.k8s.io/";
/// Devices of every container (OCI runtime specification, config-linux.md, "Default Devices"), and the usual terminals.
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
    case("archive/spec/no-hooks", Level::Robust)
        .requirement(
            "spec.dump must have no hooks, because a restore that uses them runs commands from the archive on \
            the host.",
        )
        .authority(authority::OCI.with_section(
            "OCI runtime specification (config.md: POSIX-platform hooks): a runtime runs them as root on the host",
        ))
        .expected("no hooks")
        .depends_on(&["archive/metadata/spec-dump-valid"])
        .check(hooks),
    case("archive/spec/default-devices-only", Level::Robust)
        .requirement("spec.dump must request only the default devices, because the Pod and its node grant devices.")
        .authority(authority::OCI.with_section("OCI runtime specification (config-linux.md: devices)"))
        .expected("default devices only")
        .depends_on(&["archive/metadata/spec-dump-valid"])
        .check(devices),
    case("archive/spec/no-cdi-annotations", Level::Robust)
        .requirement(
            "spec.dump and status.dump must have no annotations that request devices of the Container Device \
            Interface.",
        )
        .authority(Authority::PROJECT)
        .motivation("CVE-2026-53492: containerd restored CDI annotations of the archive")
        .expected("no annotation cdi.k8s.io/*")
        .depends_on(&["archive/metadata/spec-dump-valid"])
        .check(cdi),
];

fn hooks(archive: &InspectedArchive) -> CaseResult {
    let spec = require_spec_dump(archive)?;
    let mut problems = Problems::default();
    if let Some(hooks) = spec.hooks() {
        // Runtimes run deprecated hooks too.
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
                problems.add(|| format!("{kind} {:?}", hook.path()));
            }
        }
    }
    problems.into_result("no hooks")
}

fn devices(archive: &InspectedArchive) -> CaseResult {
    let spec = require_spec_dump(archive)?;
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    let is_default = |path: &Path| DEFAULT_DEVICES.iter().any(|default| path == Path::new(default));
    let other_devices = devices
        .into_iter()
        .flatten()
        .filter(|device| !is_default(device.path()));
    pass_unless(
        other_devices.map(|device| format!("{:?}", device.path())),
        "default devices only",
    )
}

fn cdi(archive: &InspectedArchive) -> CaseResult {
    let spec = require_spec_dump(archive)?;
    let of_spec = spec.annotations().iter().flatten().map(|(key, _)| ("spec.dump", key));
    let status = archive.documents.status_dump.parsed();
    let of_status = status
        .into_iter()
        .flat_map(|status| status.annotations.keys())
        .map(|key| ("status.dump", key));
    let cdi_annotations = of_spec.chain(of_status).filter(|(_, key)| key.starts_with(CDI_PREFIX));
    pass_unless(
        cdi_annotations.map(|(document, key)| format!("{document} has {key:?}")),
        "no annotation cdi.k8s.io/*",
    )
}
