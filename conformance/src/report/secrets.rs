//! What must stand in no report.

/// Strings that are cut out of everything a report says.
#[derive(Clone, Debug, Default)]
pub struct Secrets(Vec<String>);

/// Shorter ones would cut holes into ordinary words.
const SHORTEST: usize = 8;

impl Secrets {
    /// Adds a secret. One of several lines (a key in PEM) is cut line by line; what is too short to tell from ordinary
    /// text is not.
    pub fn add(&mut self, secret: &str) {
        for line in secret.lines().map(str::trim) {
            if line.len() >= SHORTEST && !line.starts_with("-----") && !self.0.iter().any(|known| known == line) {
                self.0.push(line.to_owned());
            }
        }
        // The longest first: a secret that holds another is cut whole.
        self.0.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    }

    /// `text` with every secret replaced by `[secret]`.
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            if text.contains(secret) {
                text = text.replace(secret, "[secret]");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_cut_the_longest_first() {
        let mut secrets = Secrets::default();
        secrets.add("token-token");
        secrets.add("token-token-and-more");
        assert_eq!(
            secrets.redact("a token-token-and-more b token-token"),
            "a [secret] b [secret]"
        );
    }

    #[test]
    fn a_key_is_cut_line_by_line_and_its_frame_stays() {
        let mut secrets = Secrets::default();
        secrets.add("-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMG\nByqGSM49AgEG\n-----END PRIVATE KEY-----\n");
        assert_eq!(secrets.redact("x MIGHAgEAMBMG y"), "x [secret] y");
        assert_eq!(
            secrets.redact("-----BEGIN PRIVATE KEY-----"),
            "-----BEGIN PRIVATE KEY-----"
        );
    }
}
