//! What parsers say about a file, without the text of the file.
//!
//! A file is named by whoever may start or call fake-cri, and read with fake-cri's rights. An error that quotes a line of it
//! would tell what its reader may not see. So errors say where and what is wrong, and quote no value.

/// What is wrong with a TOML file: the place, and the kind of defect. The name of a key that is not known is told.
pub(crate) fn toml(error: &toml::de::Error, text: &str) -> String {
    let message = error.message();
    // serde's "invalid type: string \"...\", expected ..." and "invalid value: ..." quote the value.
    let message = match message
        .strip_prefix("invalid ")
        .and_then(|rest| rest.split_once(", expected "))
    {
        Some((_, expected)) => format!("a value is not {expected}"),
        None => message.to_owned(),
    };
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return message;
    };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}: {message}")
}

/// What is wrong with a JSON file of ours.
pub(crate) fn json(error: &serde_json::Error) -> std::io::Error {
    use serde_json::error::Category;
    let what = match error.classify() {
        Category::Io => return std::io::Error::new(error.io_error_kind().unwrap_or(std::io::ErrorKind::Other), "read"),
        Category::Syntax => "it is no JSON",
        Category::Eof => "its JSON ends too early",
        Category::Data => "a field is missing or of another type",
    };
    let place = match (error.line(), error.column()) {
        (0, _) => String::new(),
        (line, column) => format!(" (line {line}, column {column})"),
    };
    std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{what}{place}"))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[expect(dead_code, reason = "only its type counts")]
        number: u32,
    }

    #[test]
    fn no_value_and_no_line_of_a_file_is_quoted() {
        let texts = [
            "root:x:0:0:hunter2",
            "number = 1\nother = \"hunter2\"",
            "number = \"hunter2\"",
            "{\"number\": \"hunter2\"}",
            "{\"number\": hunter2}",
            "hunter2",
        ];
        for text in texts {
            let error = ::toml::from_str::<File>(text).unwrap_err();
            let said = toml(&error, text);
            assert!(!said.contains("hunter2") && !said.contains("root"), "{said}");
        }
        for text in &texts[3..] {
            let said = json(&serde_json::from_str::<File>(text).unwrap_err()).to_string();
            assert!(!said.contains("hunter2"), "{said}");
        }
        let text = "number = 1\nnumber = 2";
        let said = toml(&::toml::from_str::<File>(text).unwrap_err(), text);
        assert!(said.starts_with("line 2, column 1: "), "{said}");
    }
}
