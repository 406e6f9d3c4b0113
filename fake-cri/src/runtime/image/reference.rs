//! Image references with the rules of Docker and containerd: `busybox` is `docker.io/library/busybox:latest`.
//!
//! ```text
//! [DOMAIN/]PATH[:TAG][@sha256:HEX]
//! ```
//!
//! The first component is a domain if it contains a `.` or a `:`, is `localhost`, or has a capital letter. Otherwise
//! the domain is `docker.io`, where a path of one component gets the prefix `library/`. If there is a digest, the tag
//! is dropped, as containerd does.

use std::fmt;

/// A normalised reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageReference {
    /// Domain and path: `docker.io/library/busybox`.
    pub name: String,
    /// Tag or digest.
    pub version: ImageVersion,
}

/// The tag or digest of a reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ImageVersion {
    /// A tag such as `latest`.
    Tag(String),
    /// `sha256:` and 64 hexadecimal digits.
    Digest(String),
}

/// The error for an invalid reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to parse image reference {text:?}: {reason}")]
pub struct ReferenceError {
    text: String,
    reason: &'static str,
}

impl ImageReference {
    /// Parses and normalises a reference, possibly shortened.
    ///
    /// # Errors
    ///
    /// The text is not a reference in the grammar of the OCI distribution specification.
    pub fn parse(text: &str) -> Result<ImageReference, ReferenceError> {
        let error = |reason| ReferenceError {
            text: text.to_owned(),
            reason,
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if let Some(digest) = digest
            && !is_digest(digest)
        {
            return Err(error("the digest must be sha256: and 64 hexadecimal digits"));
        }
        // A colon after the last slash begins a tag; a colon before it begins a port.
        let name_start = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_start..].split_once(':') {
            Some((last, tag)) => (&rest[..name_start + last.len()], Some(tag)),
            None => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(error("the tag must be 1 to 128 letters, digits, '_', '.' and '-'"));
        }
        let (domain, path) = match name.split_once('/') {
            Some((domain, path)) if is_domain(domain) => (domain, path.to_owned()),
            _ => ("docker.io", name.to_owned()),
        };
        let (domain, path) = match (domain, path) {
            ("docker.io" | "index.docker.io", path) if !path.contains('/') => ("docker.io", format!("library/{path}")),
            ("index.docker.io", path) => ("docker.io", path),
            other => other,
        };
        if !path.split('/').all(is_component) {
            return Err(error(
                "the name must be lowercase letters and digits, separated by '.', '_', '__', '-' and '/'",
            ));
        }
        if domain.len() + 1 + path.len() > 255 {
            return Err(error("the name is longer than 255 characters"));
        }
        Ok(ImageReference {
            name: format!("{domain}/{path}"),
            version: match (digest, tag) {
                (Some(digest), _) => ImageVersion::Digest(digest.to_owned()),
                (None, Some(tag)) => ImageVersion::Tag(tag.to_owned()),
                (None, None) => ImageVersion::Tag("latest".to_owned()),
            },
        })
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            ImageVersion::Tag(tag) => write!(f, "{}:{tag}", self.name),
            ImageVersion::Digest(digest) => write!(f, "{}@{digest}", self.name),
        }
    }
}

pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && is_hex(hex))
}

pub(crate) fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn is_tag(text: &str) -> bool {
    let is_word_byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    matches!(text.as_bytes(), [first, rest @ ..] if rest.len() < 128 && is_word_byte(*first)
        && rest.iter().all(|byte| is_word_byte(*byte) || matches!(byte, b'.' | b'-')))
}

fn is_domain(text: &str) -> bool {
    text == "localhost" || text.contains(['.', ':']) || text.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// `alphanumeric [separator alphanumeric]*`, where a separator is `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    is_alphanumeric(*first)
        && is_alphanumeric(*last)
        && bytes.split(|byte| is_alphanumeric(*byte)).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-')
        })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[rstest]
    #[case("busybox", "docker.io/library/busybox:latest")]
    #[case("busybox:1.36", "docker.io/library/busybox:1.36")]
    #[case("library/busybox", "docker.io/library/busybox:latest")]
    #[case("docker.io/busybox", "docker.io/library/busybox:latest")]
    #[case("index.docker.io/busybox:1", "docker.io/library/busybox:1")]
    #[case("docker.io/library/busybox:latest", "docker.io/library/busybox:latest")]
    #[case("someone/thing", "docker.io/someone/thing:latest")]
    #[case("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10")]
    #[case("localhost/app", "localhost/app:latest")]
    #[case("localhost:5000/app", "localhost:5000/app:latest")]
    #[case("host:5000/a/b:tag", "host:5000/a/b:tag")]
    #[case("quay.io/a/b_c__d--e.f:v1", "quay.io/a/b_c__d--e.f:v1")]
    fn normalizes_short_references(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(ImageReference::parse(text).unwrap().to_string(), expected);
    }

    #[test]
    fn a_digest_drops_the_tag() {
        let digest = format!("sha256:{HEX}");
        assert_eq!(
            ImageReference::parse(&format!("busybox:1@{digest}"))
                .unwrap()
                .to_string(),
            format!("docker.io/library/busybox@{digest}")
        );
    }

    #[rstest]
    #[case("")]
    #[case(":tag")]
    #[case("Busybox")]
    #[case("a b")]
    #[case("busybox:")]
    #[case("busybox:a/")]
    #[case("a//b")]
    #[case("a..b")]
    #[case("-a")]
    #[case("busybox@sha256:12")]
    #[case("busybox@md5:0123")]
    #[case("busybox:-tag")]
    fn invalid_references_are_refused(#[case] text: &str) {
        assert!(ImageReference::parse(text).is_err(), "{text:?}");
    }

    proptest::proptest! {
        #[test]
        fn a_normalised_reference_is_its_own_normal_form(text in "[a-z0-9.:/@_-]{0,40}") {
            if let Ok(reference) = ImageReference::parse(&text) {
                let normal = reference.to_string();
                proptest::prop_assert_eq!(ImageReference::parse(&normal).map(|reparsed| reparsed.to_string()), Ok(normal));
            }
        }
    }
}
