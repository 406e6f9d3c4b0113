//! CRIU's own decoder reads an image as this crate's codec does: field by field, by CRIU's names, with what follows an entry.
//!
//! Needs crit and a folder of images that it has not seen before, so `ci/real-crit` runs it: `CRIT` names the program,
//! `CRIT_IMAGES` the folder.

use std::{fs, path::Path, process::Command};

use cri_proto::criu::{Decoder, ImageFile, Payload, descriptors};
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};
use serde_json::{Map, Value as Json, json};

/// What `base64.encodebytes` of Python makes, without its newlines.
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
            json!(values.get_value(*number).expect("a value of the enum").name())
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

/// The entries of an image, as this crate's codec reads them, in crit's form.
fn entries(name: &str, image: &[u8]) -> Vec<Json> {
    let mut decoder = Decoder::open(name, image).unwrap();
    let kind = decoder.kind();
    let mut entries = Vec::new();
    while let Some(bytes) = decoder.entry().unwrap().map(<[u8]>::to_vec) {
        let index = decoder.entries() - 1;
        let name = kind.message(index).expect("a kind that is written has messages");
        let descriptor = descriptors()
            .get_message_by_name(&format!("criu.{name}"))
            .expect("known");
        let decoded = DynamicMessage::decode(descriptor, &*bytes).unwrap();
        assert_eq!(
            decoded.unknown_fields().count(),
            0,
            "{name} of {}",
            decoded.descriptor().name()
        );
        let mut entry = message(&decoded);
        // Crit makes one count of the two, of whatever age the image is.
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

/// Crit breaks lines of base64, and writes what follows an entry also where that is nothing.
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
    let crit = std::env::var_os("CRIT").expect("CRIT names the program");
    let folder = std::env::var_os("CRIT_IMAGES").expect("CRIT_IMAGES names the folder");
    let mut kinds = std::collections::BTreeSet::new();
    for entry in fs::read_dir(Path::new(&folder)).unwrap() {
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
        let said: Json = serde_json::from_slice(&said.stdout).expect("JSON");
        assert_eq!(said["magic"], kind.name(), "{name}");
        let expected = plain(entries(name, &fs::read(&path).unwrap()).into());
        assert_eq!(plain(said["entries"].clone()), expected, "{name}");
        kinds.insert(kind.name());
    }
    println!("{}", kinds.into_iter().collect::<Vec<_>>().join(" "));
}
