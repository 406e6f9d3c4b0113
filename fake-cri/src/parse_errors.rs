//! What parsers say about a file, without the text of the file.
//!
//! A file is named by whoever may start or call fake-cri, and read with fake-cri's rights. An error that quotes a line of it
//! would tell what its reader may not see. So errors say where and what is wrong, and quote no value.

/// What is wrong with a TOML file: the place, and the kind of defect. The name of a key that is not known is told.
pub(crate) fn toml_error_message(error: &toml::de::Error, text: &str) -> String {
    let message = error.message();
    // serde's "invalid type: string \"...\", expected ..." and "invalid value: ..." quote the value.
    let message = match message
        .strip_prefix("invalid ")
        .and_then(|rest| rest.split_once(", expected "))
    {
        Some((_, expected)) => format!("a value is not {expected}"),
        None => message.to_owned(),
    };
    let Some(text_before) = error.span().and_then(|span| text.get(..span.start)) else {
        return message;
    };
    let line = text_before.matches('\n').count() + 1;
    let column = text_before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}: {message}")
}

/// What is wrong with a JSON file of ours.
pub(crate) fn json_error(error: &serde_json::Error) -> std::io::Error {
    use serde_json::error::Category;
    let reason = match error.classify() {
        Category::Io => return std::io::Error::new(error.io_error_kind().unwrap_or(std::io::ErrorKind::Other), "read"),
        Category::Syntax => "it is no JSON",
        Category::Eof => "its JSON ends too early",
        Category::Data => "a field is missing or of another type",
    };
    let position = match (error.line(), error.column()) {
        (0, _) => String::new(),
        (line, column) => format!(" (line {line}, column {column})"),
    };
    std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{reason}{position}"))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct NumberFile {
        #[expect(dead_code, reason = "only its type counts")]
        number: u32,
    }

    #[test]
    fn errors_quote_no_file_content() {
        let texts = [
            "root:x:0:0:hunter2",
            "number = 1\nother = \"hunter2\"",
            "number = \"hunter2\"",
            "{\"number\": \"hunter2\"}",
            "{\"number\": hunter2}",
            "hunter2",
        ];
        for text in texts {
            let error = ::toml::from_str::<NumberFile>(text).unwrap_err();
            let message = toml_error_message(&error, text);
            assert!(!message.contains("hunter2") && !message.contains("root"), "{message}");
        }
        for text in &texts[3..] {
            let message = json_error(&serde_json::from_str::<NumberFile>(text).unwrap_err()).to_string();
            assert!(!message.contains("hunter2"), "{message}");
        }
        let text = "number = 1\nnumber = 2";
        let message = toml_error_message(&::toml::from_str::<NumberFile>(text).unwrap_err(), text);
        assert!(message.starts_with("line 2, column 1: "), "{message}");
    }
}
