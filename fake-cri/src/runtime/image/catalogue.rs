//! The image catalogue: defines the image of a reference and the behaviour of a pull.
//!
//! Images are entries of a TOML file; nothing is downloaded. `fixtures/images.toml` is built in; `--images FILE`
//! replaces it.
//!
//! ```toml
//! [[image]]
//! reference = "registry.k8s.io/pause:*"   # a reference, or a glob over normalised references
//! size = 742472                           # bytes
//! user = "65535"                          # uid or name, as in an image's config
//! entrypoint = ["/pause"]
//! pull = { delay = "2s", fail = "manifest unknown" }
//! ```
//!
//! The first matching entry wins. Without a match, a pull succeeds and gives an image without a command, unless
//! `--strict-images` is set. Ways to fail: the file cannot be read, is not TOML, or has an unknown key or an invalid
//! glob, digest or duration.

use std::{path::Path, time::Duration};

use globset::{GlobBuilder, GlobMatcher};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::reference::{ImageReference, ImageVersion, is_digest};
use crate::{
    parse_errors,
    runtime::{error::RuntimeError, id::hex},
};

const BUILT_IN_CATALOGUE: &str = include_str!("../../../../fixtures/images.toml");

const DEFAULT_IMAGE_BYTES: u64 = 4 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogueFile {
    #[serde(default)]
    image: Vec<CatalogueEntry>,
}

/// One entry of the catalogue.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueEntry {
    /// A reference, possibly shortened, or a glob over normalised references.
    pub reference: String,
    /// The digest of the manifest; derived from the reference if absent.
    pub digest: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
    /// Uid or name, with an optional group after a colon.
    #[serde(default)]
    pub user: String,
    /// The executable and its first arguments.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// The default arguments.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// The working directory.
    #[serde(default)]
    pub working_dir: String,
    /// The stop signal: a name such as `SIGQUIT`.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// Whether the kubelet must not garbage-collect the image.
    #[serde(default)]
    pub pinned: bool,
    /// Whether the image exists at the start, without a pull.
    #[serde(default)]
    pub present: bool,
    /// The behaviour of a pull.
    #[serde(default)]
    pub pull: PullBehaviour,
}

/// The behaviour of a pull.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullBehaviour {
    /// The duration of the pull.
    #[serde(default, deserialize_with = "deserialize_duration")]
    pub delay: Duration,
    /// The message of the error after the delay. Without it the pull succeeds.
    pub fail: Option<String>,
}

fn deserialize_duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(serde::de::Error::custom)
}

/// The parsed catalogue.
#[derive(Debug)]
pub struct Catalogue {
    entries: Vec<(GlobMatcher, CatalogueEntry)>,
    strict: bool,
}

impl Catalogue {
    /// Parses the built-in catalogue, or `file` instead.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, which names the file and the mistake.
    pub fn load(file: Option<&Path>, strict: bool) -> Result<Catalogue, RuntimeError> {
        match file {
            None => Catalogue::parse(BUILT_IN_CATALOGUE, strict).map_err(|message| {
                RuntimeError::InvalidArgument(format!("failed to read the built-in image catalogue: {message}"))
            }),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| error.to_string())
                .and_then(|text| Catalogue::parse(&text, strict))
                .map_err(|message| {
                    RuntimeError::InvalidArgument(format!("failed to read image catalogue {path:?}: {message}"))
                }),
        }
    }

    fn parse(text: &str, strict: bool) -> Result<Catalogue, String> {
        let file: CatalogueFile =
            toml::from_str(text).map_err(|error| parse_errors::toml_error_message(&error, text))?;
        let entry = |entry: CatalogueEntry| {
            let pattern = if entry.reference.contains(['*', '?', '[', '{']) {
                entry.reference.clone()
            } else {
                let normalized = ImageReference::parse(&entry.reference).map_err(|error| error.to_string())?;
                globset::escape(&normalized.to_string())
            };
            if let Some(digest) = &entry.digest
                && !is_digest(digest)
            {
                return Err(format!(
                    "image {:?}: digest {digest:?} is not sha256:HEX",
                    entry.reference
                ));
            }
            let glob = GlobBuilder::new(&pattern).build().map_err(|error| error.to_string())?;
            Ok((glob.compile_matcher(), entry))
        };
        Ok(Catalogue {
            entries: file.image.into_iter().map(entry).collect::<Result<_, String>>()?,
            strict,
        })
    }

    /// Finds the image of a reference. Returns `None` if the catalogue is strict and has no matching entry.
    ///
    /// A reference with a digest matches an entry with that digest, or an entry without a digest whose pattern matches
    /// the reference or the same name with the tag `latest`.
    pub fn find(&self, reference: &ImageReference) -> Option<ResolvedImage> {
        let text = reference.to_string();
        let entry = self
            .entries
            .iter()
            .find(|(glob, entry)| match (&reference.version, &entry.digest) {
                (ImageVersion::Digest(requested), Some(digest)) => requested == digest,
                (ImageVersion::Digest(_), None) => {
                    glob.is_match(&text) || glob.is_match(format!("{}:latest", reference.name))
                }
                (ImageVersion::Tag(_), _) => glob.is_match(&text),
            });
        let entry = match entry {
            Some((_, entry)) => entry.clone(),
            None if self.strict => return None,
            None => CatalogueEntry::default(),
        };
        let digest = match (&entry.digest, &reference.version) {
            (Some(digest), _) | (None, ImageVersion::Digest(digest)) => digest.clone(),
            (None, ImageVersion::Tag(_)) => sha256(&["manifest", &text]),
        };
        Some(ResolvedImage {
            id: sha256(&["config", &digest]),
            size: entry.size.unwrap_or(DEFAULT_IMAGE_BYTES),
            digest,
            entry,
        })
    }

    /// The references of the images that exist at the start.
    pub fn preloaded(&self) -> impl Iterator<Item = &str> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.present)
            .map(|(_, entry)| entry.reference.as_str())
    }
}

/// The catalogue's data for one reference.
#[derive(Clone, Debug)]
pub struct ResolvedImage {
    /// The image id: `sha256:` and 64 hexadecimal digits. Stands for the digest of the image config.
    pub id: String,
    /// The digest of the manifest.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// The matching entry, or a default entry.
    pub entry: CatalogueEntry,
}

fn sha256(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    format!("sha256:{}", hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> ImageReference {
        ImageReference::parse(text).unwrap()
    }

    #[test]
    fn built_in_catalogue_has_pause_and_workload() {
        let catalogue = Catalogue::load(None, true).unwrap();
        for text in ["busybox", "registry.k8s.io/pause:3.10", "localhost/test-workload"] {
            assert!(catalogue.find(&reference(text)).is_some(), "{text}");
        }
        assert_eq!(
            catalogue
                .find(&reference("localhost/test-workload:1"))
                .unwrap()
                .entry
                .entrypoint,
            ["test-workload"]
        );
        assert!(catalogue.find(&reference("example.com/unknown")).is_none());
    }

    #[test]
    fn unknown_images_have_stable_digests() {
        let catalogue = Catalogue::parse("", false).unwrap();
        let first = catalogue.find(&reference("a/b")).unwrap();
        let second = catalogue.find(&reference("docker.io/a/b:latest")).unwrap();
        assert_eq!((&first.id, &first.digest), (&second.id, &second.digest));
        assert_ne!(first.id, catalogue.find(&reference("a/c")).unwrap().id);
    }

    #[test]
    fn first_matching_entry_wins() {
        let text = r#"
            [[image]]
            reference = "example.com/**:broken"
            pull = { delay = "20ms", fail = "manifest unknown" }
            [[image]]
            reference = "example.com/a:broken"
        "#;
        let pull = Catalogue::parse(text, false)
            .unwrap()
            .find(&reference("example.com/a:broken"))
            .unwrap()
            .entry
            .pull;
        assert_eq!(pull.delay, Duration::from_millis(20));
        assert_eq!(pull.fail.as_deref(), Some("manifest unknown"));
    }

    #[rstest::rstest]
    #[case("[[image]]\nreference = 'a'\nsise = 1", "sise")]
    #[case("[[image]]\nreference = 'A'", "A")]
    #[case("[[image]]\nreference = 'a'\ndigest = 'x'", "digest")]
    #[case("[[image]]\nreference = 'a[*'", "a[*")]
    #[case("[[image]]\nreference = 'a'\npull = { delay = 'soon' }", "line 3, column 18")]
    fn errors_name_the_mistake(#[case] text: &str, #[case] expected: &str) {
        let message = Catalogue::parse(text, false).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
}
