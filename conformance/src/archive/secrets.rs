//! What of a container's environment is a secret, by its name: for those who look at an archive and know no other.

use super::Inspected;

/// Parts of names that say so.
const TELLING: [&str; 6] = ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "PRIVATE_KEY", "API_KEY"];
/// A shorter value would be found anywhere.
const SHORTEST: usize = 8;

/// The values of those variables of `spec.dump` whose names say that they are secret.
pub fn of_the_environment(archive: &Inspected) -> Vec<Vec<u8>> {
    let process = archive.documents.spec.read().and_then(|spec| spec.process().as_ref());
    let environment = process.and_then(|process| process.env().as_ref());
    let variables = environment
        .into_iter()
        .flatten()
        .filter_map(|variable| variable.split_once('='));
    let secret = variables.filter(|(name, value)| {
        let name = name.to_ascii_uppercase();
        value.len() >= SHORTEST && TELLING.iter().any(|telling| name.contains(telling))
    });
    secret.map(|(_, value)| value.as_bytes().to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{
        Expected, Limits, inspect_stream,
        sample::{SECRET, Sample, tar_of},
    };

    fn secrets(sample: &Sample) -> Vec<Vec<u8>> {
        let bytes = tar_of(&sample.parts()).unwrap();
        of_the_environment(&inspect_stream(&bytes[..], &Expected::default(), Limits::default()).unwrap())
    }

    #[test]
    fn values_whose_names_say_so_are_secrets_and_others_are_not() {
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
