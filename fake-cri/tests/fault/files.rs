//! Fault files: those in fixtures/, their contents, and their errors.

use std::path::{Path, PathBuf};

use fake_cri::fault::{Defect, FaultFileError, Preset, Rule, presets_markdown, read_fault_file};
use rstest::rstest;

fn workspace_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read_text(text: &str) -> Result<Vec<Rule>, FaultFileError> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(&file, text).expect("the file is writable");
    read_fault_file(file.path())
}

#[test]
fn every_scenario_parses_and_has_a_description() {
    let mut files = 0;
    for file in std::fs::read_dir(workspace_dir().join("fixtures/faults")).expect("the fault files are readable") {
        let path = file.expect("an entry").path();
        let rules = read_fault_file(&path).unwrap_or_else(|error| panic!("{error}"));
        assert!(!rules.is_empty(), "{}", path.display());
        let text = std::fs::read_to_string(&path).expect("the file was readable before");
        assert!(text.starts_with("description = \""), "{}", path.display());
        files += 1;
    }
    assert!(files >= 5, "{files}");
}

#[test]
fn fields_equal_the_grammar() {
    let rules = read_text(
        r#"
        description = "all of it"
        [[fault]]
        rpc = "CheckpointContainer"
        pod = "a pod"
        namespace = "default"
        container = "app"
        every = 2
        p = 0.5
        seed = 7
        times = 3
        point = "write"
        effect = "mode(0644)"
        [[fault]]
        preset = "hang"
        container = "app"
        [[fault]]
        rule = "Version:before=hang; Status:before=disconnect"
        "#,
    );
    let rules = rules.unwrap_or_else(|error| panic!("{error}"));
    let printed: Vec<_> = rules.iter().map(Rule::to_string).collect();
    let expected = [
        r#"CheckpointContainer(pod="a pod",namespace=default,container=app,every=2,p=0.5,seed=7,times=3):write=mode(0644)"#,
        "CheckpointContainer(container=app):before=hang",
        "Version:before=hang",
        "Status:before=disconnect",
    ];
    assert_eq!(printed, expected);
    assert!(read_text("").is_ok_and(|rules| rules.is_empty()));
}

#[rstest]
#[case(
    "[[fault]]\nrule = 'Version:before=hang'\nnth = 2",
    "fault 1: `rule` excludes all other fields"
)]
#[case(
    "[[fault]]\npreset = 'hang'\npoint = 'after'",
    "fault 1: `preset` allows only selectors"
)]
#[case(
    "[[fault]]\nrpc = 'Version'\npoint = 'before'",
    "fault 1: expected `rule`, or `preset`, or `rpc` with"
)]
#[case(
    "[[fault]]\npreset = 'hang'\n[[fault]]\npreset = 'hung'",
    "fault 2: column 8: unknown preset `hung`"
)]
#[case(
    "[[fault]]\nrpc = 'Version'\npoint = 'write'\neffect = 'hang'",
    "fault 1: column 9: `write` is a phase of"
)]
#[case("[[fault]]\nrpc = 'Version'\nnht = 2", "unknown field `nht`")]
#[case("[[fault]]\nrpc = ", "line 2, column 7: ")]
fn invalid_files_are_refused(#[case] text: &str, #[case] message: &str) {
    let error = read_text(text).expect_err("an invalid file").to_string();
    assert!(error.contains(message), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let error = read_fault_file(Path::new("/nonexistent/faults.toml")).expect_err("a missing file");
    assert_eq!(error.to_string(), "cannot read /nonexistent/faults.toml");
}

/// `fake-cri fault presets --markdown` generates the table.
#[test]
fn documentation_has_the_preset_table() {
    let page = std::fs::read_to_string(workspace_dir().join("docs/FAULTS.md")).expect("docs/FAULTS.md is readable");
    let (_, rest) = page.split_once("<!-- presets -->\n").expect("a start marker");
    let (table, _) = rest.split_once("<!-- end of presets -->").expect("an end marker");
    assert_eq!(
        table,
        presets_markdown(),
        "replace the table in docs/FAULTS.md by the output of `fake-cri fault presets --markdown`"
    );
    assert!(Preset::ALL.len() >= 20);
}

#[test]
fn documentation_has_the_defect_table() {
    let page = std::fs::read_to_string(workspace_dir().join("docs/FAULTS.md")).expect("docs/FAULTS.md is readable");
    let (_, rest) = page.split_once("<!-- defects -->\n").expect("a start marker");
    let (table, _) = rest.split_once("<!-- end of defects -->").expect("an end marker");
    let rows = Defect::WITHOUT_ARGUMENT
        .iter()
        .map(|(defect, description)| format!("| `{}` | {description} |\n", defect.name()));
    let expected: String = std::iter::once("| defect | behaviour |\n|---|---|\n".to_owned())
        .chain(rows)
        .collect();
    assert_eq!(table, expected, "replace the table in docs/FAULTS.md by:\n{expected}");
}
