//! crit, CRIU's decoder, and this crate read the same fields and payloads from an image.
//!
//! The test needs crit and a directory of images, so only `ci/real-crit` runs it: `CRIT` is the path of the program,
//! `CRIT_IMAGES` the directory.

use std::{fs, path::Path, process::Command};

use cri_proto::criu::{Decoder, ImageFile, Payload, descriptors};
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};
use serde_json::{Map, Value as Json, json};

/// The output of Python's `base64.encodebytes` without newlines.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let at = (word >> (18 - 6 * digit) & 63) as usize;
            text.push(if digit <= chunk.len() {
                char::from(DIGITS[at])
            } else {
                '='
            });
        }
    }
    text
}

fn message(message: &DynamicMessage) -> Map<String, Json> {
    let fields = message.fields();
    fields
        .map(|(field, content)| (field.name().to_owned(), value(&field, content)))
        .collect()
}

fn value(field: &prost_reflect::FieldDescriptor, content: &Value) -> Json {
    match content {
        Value::Bool(value) => json!(value),
        Value::I32(value) => json!(value),
        Value::I64(value) => json!(value),
        Value::U32(value) => json!(value),
        Value::U64(value) => json!(value),
        Value::F32(value) => json!(value),
        Value::F64(value) => json!(value),
        Value::String(value) => json!(value),
        Value::Bytes(value) => json!(base64(value)),
        Value::EnumNumber(number) => {
            let prost_reflect::Kind::Enum(values) = field.kind() else {
                panic!("{} is no enum", field.name());
            };
            json!(values.get_value(*number).expect("a known enum value").name())
        }
        Value::Message(inner) => Json::Object(message(inner)),
        Value::List(list) => list
            .iter()
            .map(|content| value(field, content))
            .collect::<Vec<_>>()
            .into(),
        Value::Map(_) => panic!("no image has a map"),
    }
}

/// Decodes the entries of an image with this crate, in the form of crit's JSON.
fn entries(name: &str, image: &[u8]) -> Vec<Json> {
    let mut decoder = Decoder::open(name, image).unwrap();
    let kind = decoder.kind();
    let mut entries = Vec::new();
    while let Some(bytes) = decoder.entry().unwrap().map(<[u8]>::to_vec) {
        let index = decoder.entries() - 1;
        let name = kind.message(index).expect("the kind has messages");
        let descriptor = descriptors()
            .get_message_by_name(&format!("criu.{name}"))
            .expect("a known message");
        let decoded = DynamicMessage::decode(descriptor, &*bytes).unwrap();
        assert_eq!(
            decoded.unknown_fields().count(),
            0,
            "{name} of {}",
            decoded.descriptor().name()
        );
        let mut entry = message(&decoded);
        // crit merges the old and the new field of the page count.
        if let Some(older) = entry.remove("compat_nr_pages") {
            assert_eq!(Some(&older), entry.get("nr_pages"));
        }
        let mut payload = Vec::new();
        match Payload::after(kind, index, &bytes).unwrap() {
            Payload::None => {}
            Payload::Bytes(count) => decoder.copy_payload(count, &mut payload).unwrap(),
            Payload::Rest => drop(decoder.copy_rest(&mut payload).unwrap()),
        }
        if !payload.is_empty() {
            entry.insert("extra".to_owned(), json!(base64(&payload)));
        }
        entries.push(Json::Object(entry));
    }
    entries
}

/// Removes crit's line breaks in base64, and empty payloads.
fn plain(json: Json) -> Json {
    match json {
        Json::String(text) => Json::String(text.replace('\n', "")),
        Json::Array(list) => list.into_iter().map(plain).collect(),
        Json::Object(map) => map
            .into_iter()
            .map(|(name, value)| (name, plain(value)))
            .filter(|(name, value)| name != "extra" || *value != json!(""))
            .collect(),
        other => other,
    }
}

#[test]
#[ignore = "needs crit and images: ci/real-crit runs it"]
fn output_matches_crit() {
    let crit = std::env::var_os("CRIT").expect("CRIT is set");
    let dir = std::env::var_os("CRIT_IMAGES").expect("CRIT_IMAGES is set");
    let mut kinds = std::collections::BTreeSet::new();
    for entry in fs::read_dir(Path::new(&dir)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some(ImageFile::Image(kind, _)) = ImageFile::from_name(name) else {
            continue;
        };
        let said = Command::new(&crit).args(["decode", "-i"]).arg(&path).output().unwrap();
        assert!(
            said.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&said.stderr)
        );
        let said: Json = serde_json::from_slice(&said.stdout).expect("valid JSON");
        assert_eq!(said["magic"], kind.name(), "{name}");
        let expected = plain(entries(name, &fs::read(&path).unwrap()).into());
        assert_eq!(plain(said["entries"].clone()), expected, "{name}");
        kinds.insert(kind.name());
    }
    println!("{}", kinds.into_iter().collect::<Vec<_>>().join(" "));
}
