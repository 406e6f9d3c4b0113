//! What of a container's environment is a secret, by its name: for those who look at an archive and know no other.

use super::InspectedArchive;

/// Parts of names that say so.
const SECRET_NAME_PARTS: [&str; 6] = ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "PRIVATE_KEY", "API_KEY"];
/// A shorter value would be found anywhere.
const MIN_SECRET_BYTES: usize = 8;

/// The values of those variables of `spec.dump` whose names say that they are secret.
pub fn from_environment(archive: &InspectedArchive) -> Vec<Vec<u8>> {
    let process = archive.documents.spec.parsed().and_then(|spec| spec.process().as_ref());
    let environment = process.and_then(|process| process.env().as_ref());
    let variables = environment
        .into_iter()
        .flatten()
        .filter_map(|variable| variable.split_once('='));
    let secret = variables.filter(|(name, value)| {
        let name = name.to_ascii_uppercase();
        value.len() >= MIN_SECRET_BYTES && SECRET_NAME_PARTS.iter().any(|telling| name.contains(telling))
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
