//! Redacts secrets from reports.
//!
//! ```text
//!  a secret --+-- unchanged, line by line
//!             +-- as JSON, percent-encoded, in hexadecimal
//!             +-- in base64: alone, and as part of longer data
//!             +-- a prefix of any of these, where a text was truncated
//! ```
//!
//! A target that leaks a secret usually leaks an encoded form: a body contains JSON, a URL is percent-encoded, a header
//! or a Kubernetes Secret is in base64. For a secret that is itself hexadecimal (a canary in memory), the decoded bytes
//! are redacted too.

use std::borrow::Cow;

use base64::{
    Engine as _,
    engine::{GeneralPurpose, general_purpose},
};

/// The strings that are replaced in every text of a report.
#[derive(Clone, Debug, Default)]
pub struct Secrets(Vec<String>);

/// The minimum length of a secret. Shorter ones would match ordinary words.
const MIN_SECRET_BYTES: usize = 8;

/// The replacement of a secret.
const REPLACEMENT: &str = "[secret]";

/// The marks at the end of a truncated text.
const TRUNCATION_MARKS: [&str; 2] = ["...", "\u{2026}"];

impl Secrets {
    /// Adds a secret. Each line of a multi-line secret (a PEM key) is a secret of its own. Lines that are too short to
    /// distinguish from ordinary text are ignored.
    pub fn add(&mut self, secret: &str) {
        for line in secret.lines().map(str::trim) {
            if line.len() >= MIN_SECRET_BYTES
                && !line.starts_with("-----")
                && !self.0.iter().any(|existing| existing == line)
            {
                self.0.extend(search_forms(line));
            }
        }
        // Longest first, so that a secret that contains another one is replaced completely.
        self.0.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        self.0.dedup();
    }

    /// Replaces every secret in `text` with `[secret]`.
    pub fn redact(&self, text: &str) -> String {
        let mut text = Cow::Borrowed(text);
        for secret in &self.0 {
            if text.contains(secret.as_str()) {
                text = Cow::Owned(text.replace(secret.as_str(), REPLACEMENT));
            }
        }
        self.redact_truncated(&text)
    }

    /// Replaces the prefix of a secret before a truncation mark or at the end of the text.
    fn redact_truncated(&self, text: &str) -> String {
        let mut redacted = String::with_capacity(text.len());
        let mut rest = text;
        loop {
            let cut = TRUNCATION_MARKS
                .iter()
                .filter_map(|cut| rest.find(cut).map(|at| (at, cut.len())))
                .min()
                .unwrap_or((rest.len(), 0));
            let (before, after) = (&rest[..cut.0], &rest[cut.0 + cut.1..]);
            let prefix_len = self.truncated_secret_len(before);
            redacted.push_str(&before[..before.len() - prefix_len]);
            if prefix_len > 0 {
                redacted.push_str(REPLACEMENT);
            }
            redacted.push_str(&rest[cut.0..cut.0 + cut.1]);
            if cut.1 == 0 {
                return redacted;
            }
            rest = after;
        }
    }

    /// Returns the length of the longest prefix of a secret at the end of `text`, in bytes.
    fn truncated_secret_len(&self, text: &str) -> usize {
        let longest = |secret: &String| {
            (MIN_SECRET_BYTES..secret.len().min(text.len() + 1))
                .rev()
                .find(|length| secret.is_char_boundary(*length) && text.ends_with(&secret[..*length]))
        };
        self.0.iter().filter_map(longest).max().unwrap_or(0)
    }
}

/// Returns every encoded form of a line.
fn search_forms(line: &str) -> Vec<String> {
    let mut forms = vec![line.to_owned()];
    forms.extend(text_forms(line));
    forms.extend(byte_forms(line.as_bytes()));
    if let Some(bytes) = decode_hex(line) {
        forms.extend(byte_forms(&bytes));
        forms.push(line.to_ascii_uppercase());
        forms.push(line.to_ascii_lowercase());
    }
    forms.retain(|form| form.len() >= MIN_SECRET_BYTES);
    forms
}

/// Returns the line as JSON (serde's, and Go's, which also escapes `<`, `>` and `&`), percent-encoded, and
/// form-encoded.
fn text_forms(line: &str) -> Vec<String> {
    let json = serde_json::Value::from(line).to_string();
    let json = json[1..json.len() - 1].to_owned();
    let html_escaped = json
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026");
    let slash_escaped = json.replace('/', "\\/");
    let mut forms = vec![json, html_escaped, slash_escaped];
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    for (hex, keep) in [(true, ""), (false, ""), (true, "/"), (true, ":/@!$&'()*,;=+")] {
        let mut form = String::new();
        for byte in line.bytes() {
            if unreserved(byte) || keep.as_bytes().contains(&byte) {
                form.push(char::from(byte));
            } else if hex {
                form.push_str(&format!("%{byte:02X}"));
            } else {
                form.push_str(&format!("%{byte:02x}"));
            }
        }
        forms.push(form.replace("%20", "+"));
        forms.push(form);
    }
    forms
}

/// Returns the bytes in hexadecimal and in both base64 alphabets, at each of the three alignments that they can have
/// inside longer data. The first and last base64 characters can depend on the neighbouring bytes and are omitted.
fn byte_forms(bytes: &[u8]) -> Vec<String> {
    let mut forms = vec![hex::encode_upper(bytes), hex::encode(bytes)];
    let engines: [&GeneralPurpose; 2] = [&general_purpose::STANDARD_NO_PAD, &general_purpose::URL_SAFE_NO_PAD];
    for engine in engines {
        for before in 0..3 {
            let mut padded = vec![0; before];
            padded.extend_from_slice(bytes);
            let text = engine.encode(&padded);
            // Each character encodes six bits. Omit characters that also encode bits of neighbouring bytes.
            let first = (before * 8).div_ceil(6);
            let last = padded.len() * 8 / 6;
            forms.push(text[first..last].to_owned());
        }
    }
    forms
}

fn decode_hex(line: &str) -> Option<Vec<u8>> {
    hex::decode(line).ok().filter(|bytes| bytes.len() >= MIN_SECRET_BYTES)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const TOKEN: &str = "eyJ+hbGc/iOi=\"JS<Uz>I1&N ü";

    fn secrets(secret: &str) -> Secrets {
        let mut secrets = Secrets::default();
        secrets.add(secret);
        secrets
    }

    #[test]
    fn redacts_the_longest_secret_first() {
        let mut secrets = Secrets::default();
        secrets.add("token-token");
        secrets.add("token-token-and-more");
        assert_eq!(
            secrets.redact("a token-token-and-more b token-token"),
            "a [secret] b [secret]"
        );
    }

    #[test]
    fn redacts_keys_line_by_line() {
        let secrets = secrets("-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMG\nByqGSM49AgEG\n-----END PRIVATE KEY-----\n");
        assert_eq!(
            secrets.redact("a\n  MIGHAgEAMBMG\n  ByqGSM49AgEG\nb"),
            "a\n  [secret]\n  [secret]\nb"
        );
        assert_eq!(secrets.redact("MIGHAgEAMBMGByqGSM49AgEG"), "[secret][secret]");
        assert_eq!(
            secrets.redact("-----BEGIN PRIVATE KEY-----"),
            "-----BEGIN PRIVATE KEY-----"
        );
    }

    #[rstest]
    #[case::json(serde_json::json!({ "token": TOKEN }).to_string())]
    #[case::json_of_go(serde_json::json!(TOKEN).to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"))]
    #[case::percent("token=eyJ%2BhbGc%2FiOi%3D%22JS%3CUz%3EI1%26N%20%C3%BC")]
    #[case::percent_lower("token=eyJ%2bhbGc%2fiOi%3d%22JS%3cUz%3eI1%26N%20%c3%bc")]
    #[case::form("token=eyJ%2BhbGc%2FiOi%3D%22JS%3CUz%3EI1%26N+%C3%BC")]
    #[case::hex("0x".to_owned() + &hex::encode(TOKEN))]
    #[case::hex_upper(hex::encode_upper(TOKEN))]
    #[case::base64(general_purpose::STANDARD.encode(TOKEN))]
    #[case::base64_url(general_purpose::URL_SAFE_NO_PAD.encode(TOKEN))]
    #[case::within_base64(general_purpose::STANDARD.encode(format!("{{\"token\":\"{TOKEN}\"}}")))]
    #[case::within_base64_by_one(general_purpose::STANDARD.encode(format!("x{{\"token\":\"{TOKEN}\"}}")))]
    #[case::within_base64_by_two(general_purpose::URL_SAFE.encode(format!("xy{{\"token\":\"{TOKEN}\"}}")))]
    fn redacts_other_encodings(#[case] text: String) {
        let redacted = secrets(TOKEN).redact(&text);
        assert!(redacted.contains(REPLACEMENT), "{redacted}");
        // One or two base64 characters at each edge may remain; they reveal nothing.
        assert!(
            redacted.len() + TOKEN.len() <= text.len() + REPLACEMENT.len() + 4,
            "{text} -> {redacted}"
        );
    }

    #[test]
    fn redacts_a_canary_as_bytes() {
        let canary = "00112233445566778899aabbccddeeff";
        let bytes = decode_hex(canary).unwrap();
        let secrets = secrets(canary);
        for text in [
            canary.to_ascii_uppercase(),
            general_purpose::STANDARD.encode(&bytes),
            general_purpose::STANDARD.encode(canary),
            hex::encode(canary),
        ] {
            assert!(secrets.redact(&text).starts_with(REPLACEMENT), "{text}");
        }
    }

    #[rstest]
    #[case("body: secret-token-1... (12 more bytes)", "body: [secret]... (12 more bytes)")]
    #[case("body: secret-to\u{2026}", "body: [secret]\u{2026}")]
    #[case("body: secret-token-", "body: [secret]")]
    #[case("secret... and more", "secret... and more")]
    #[case("a secret-token-1234 and... so on", "a [secret] and... so on")]
    #[case("secretsecret-t... secret-to...", "secret[secret]... [secret]...")]
    fn redacts_truncated_secrets(#[case] text: &str, #[case] redacted: &str) {
        assert_eq!(secrets("secret-token-1234").redact(text), redacted);
    }

    #[test]
    fn keeps_ordinary_text() {
        let text = "404 \"pod does not exist\" for default/web/app, 64 hex digits: not a secret";
        assert_eq!(secrets(TOKEN).redact(text), text);
        assert_eq!(secrets("short").redact("a short word"), "a short word");
    }
}
