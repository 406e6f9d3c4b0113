//! Recognises secrets in a container's environment by the names of the variables, for callers that know no secret
//! values.

use super::InspectedArchive;

const SECRET_NAME_PARTS: [&str; 6] = ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "PRIVATE_KEY", "API_KEY"];
/// Shorter values would match by chance.
const MIN_SECRET_BYTES: usize = 8;

/// The values of the variables in `spec.dump` with names of secrets.
pub fn from_environment(archive: &InspectedArchive) -> Vec<Vec<u8>> {
    let process = archive.documents.spec.parsed().and_then(|spec| spec.process().as_ref());
    let environment = process.and_then(|process| process.env().as_ref());
    let variables = environment
        .into_iter()
        .flatten()
        .filter_map(|variable| variable.split_once('='));
    let secret = variables.filter(|(name, value)| {
        let name = name.to_ascii_uppercase();
        value.len() >= MIN_SECRET_BYTES && SECRET_NAME_PARTS.iter().any(|part| name.contains(part))
    });
    secret.map(|(_, value)| value.as_bytes().to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{
        Expectations, Limits, inspect_stream,
        sample::{SECRET, Sample, tar_of},
    };

    fn secrets(sample: &Sample) -> Vec<Vec<u8>> {
        let bytes = tar_of(&sample.members()).unwrap();
        from_environment(&inspect_stream(&bytes[..], &Expectations::default(), Limits::default()).unwrap())
    }

    #[test]
    fn selects_secrets_by_variable_name() {
        let mut sample = Sample::default();
        assert_eq!(secrets(&sample), [SECRET.to_vec()]);
        sample.spec["process"]["env"] = serde_json::json!([
            "PATH=/bin:/usr/bin",
            "db_password=correct horse",
            "TOKEN=short",
            "SECRET"
        ]);
        assert_eq!(secrets(&sample), [b"correct horse".to_vec()]);
    }
}
