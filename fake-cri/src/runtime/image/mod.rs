//! Images: pulled from the [`Catalogue`], kept in the store, found by id, digest, tag or short name.

mod catalogue;
mod reference;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use serde::{Deserialize, Serialize};

use self::reference::{is_digest, is_hex};
pub use self::{
    catalogue::{Catalogue, Entry, Found, Pull},
    reference::{ParseError, Reference, Version},
};
use super::{
    clock::now,
    error::{Error, Kind},
    store::{Object, Store},
};

/// A pulled image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `sha256:` and 64 hexadecimal digits.
    pub id: String,
    /// Normalised references with a tag.
    pub repo_tags: Vec<String>,
    /// Normalised references with a digest.
    pub repo_digests: Vec<String>,
    /// Bytes.
    pub size: u64,
    /// Uid or name, as in an image's config.
    pub user: String,
    /// What runs, before the arguments.
    pub entrypoint: Vec<String>,
    /// The arguments when the container brings none.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The working directory.
    pub working_dir: String,
    /// The signal that asks it to stop.
    pub stop_signal: Option<String>,
    /// Whether garbage collection must leave it alone.
    pub pinned: bool,
    /// When it was pulled, in nanoseconds since the epoch.
    pub pulled_at: i64,
}

impl Object for Image {
    const FOLDER: &'static str = "images";

    fn id(&self) -> &str {
        &self.id
    }
}

/// The pulled images.
#[derive(Debug)]
pub struct Images {
    store: Arc<Store>,
    catalogue: Catalogue,
    pulled: Mutex<BTreeMap<String, Image>>,
}

impl Images {
    /// The images of this store, and what the catalogue has there from the start.
    ///
    /// # Errors
    ///
    /// A file of the store that cannot be read, an entry of the catalogue that cannot be pulled.
    pub fn open(store: Arc<Store>, catalogue: Catalogue) -> Result<Images, Error> {
        let pulled = store.load::<Image>()?;
        let images = Images {
            store,
            catalogue,
            pulled: Mutex::new(pulled.into_iter().map(|image| (image.id.clone(), image)).collect()),
        };
        for text in images.catalogue.present() {
            let reference = parse(text)?;
            if let Some(found) = images.catalogue.find(&reference) {
                images.add(&reference, &found)?;
            }
        }
        Ok(images)
    }

    fn table(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Image>> {
        self.pulled.lock().expect("no holder of this lock panics")
    }

    /// All pulled images, by id.
    pub fn list(&self) -> Vec<Image> {
        self.table().values().cloned().collect()
    }

    /// The pulled image that this text names: an id with or without `sha256:`, a unique prefix of one, a digest or a name.
    ///
    /// # Errors
    ///
    /// `Invalid` for no reference at all, `NotFound` when no such image was pulled.
    pub fn get(&self, text: &str) -> Result<Image, Error> {
        if text.is_empty() {
            return Err(Error::Invalid("the image's reference is empty".to_owned()));
        }
        let table = self.table();
        if is_digest(text) {
            return table
                .get(text)
                .cloned()
                .ok_or_else(|| Error::not_found(Kind::Image, text));
        }
        let reference = Reference::parse(text);
        if let Ok(reference) = &reference {
            let normal = reference.to_string();
            let named = |image: &&Image| image.repo_tags.contains(&normal) || image.repo_digests.contains(&normal);
            if let Some(image) = table.values().find(named) {
                return Ok(image.clone());
            }
        }
        // Last a shortened id, as command lines show it. A name of hexadecimal digits was looked for before.
        if is_hex(text) && text.len() >= 4 {
            let prefix = format!("sha256:{text}");
            let mut candidates = table.values().filter(|image| image.id.starts_with(&prefix));
            match (candidates.next(), candidates.count()) {
                (Some(image), 0) => return Ok(image.clone()),
                (Some(_), more) => {
                    return Err(Error::Ambiguous {
                        kind: Kind::Image,
                        id: text.to_owned(),
                        count: more + 1,
                    });
                }
                (None, _) => {}
            }
        }
        match reference {
            Err(error) if !is_hex(text) => Err(Error::Invalid(error.to_string())),
            _ => Err(Error::not_found(Kind::Image, text)),
        }
    }

    /// Pulls an image as the catalogue says, and gives its id. Dropping the future gives the pull up.
    ///
    /// # Errors
    ///
    /// `Invalid` for no reference, `Pull` when the catalogue says so or does not know it.
    pub async fn pull(&self, text: &str) -> Result<String, Error> {
        // The kubelet pulls by id what it has found by id before.
        if is_digest(text) {
            return self.get(text).map(|image| image.id);
        }
        let reference = parse(text)?;
        let failed = |message: String, missing| Error::Pull {
            image: reference.to_string(),
            message,
            missing,
        };
        let Some(found) = self.catalogue.find(&reference) else {
            return Err(failed(
                "the catalogue does not know it, and --strict-images is on".to_owned(),
                true,
            ));
        };
        if !found.entry.pull.delay.is_zero() {
            tokio::time::sleep(found.entry.pull.delay).await;
        }
        if let Some(message) = &found.entry.pull.fail {
            return Err(failed(message.clone(), false));
        }
        self.add(&reference, &found)
    }

    /// Enters an image under a reference; a tag that another image had moves over.
    fn add(&self, reference: &Reference, found: &Found) -> Result<String, Error> {
        let mut table = self.table();
        let text = reference.to_string();
        if let Version::Tag(_) = reference.version {
            for image in table.values_mut() {
                if image.id != found.id && image.repo_tags.contains(&text) {
                    image.repo_tags.retain(|tag| *tag != text);
                    self.store.save(image)?;
                }
            }
        }
        let entry = &found.entry;
        let image = table.entry(found.id.clone()).or_insert_with(|| Image {
            id: found.id.clone(),
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            size: found.size,
            user: entry.user.clone(),
            entrypoint: entry.entrypoint.clone(),
            cmd: entry.cmd.clone(),
            env: entry.env.clone(),
            working_dir: entry.working_dir.clone(),
            stop_signal: entry.stop_signal.clone(),
            pinned: entry.pinned,
            pulled_at: now(),
        });
        let digest = format!("{}@{}", reference.name, found.digest);
        if !image.repo_digests.contains(&digest) {
            image.repo_digests.push(digest);
        }
        if matches!(reference.version, Version::Tag(_)) && !image.repo_tags.contains(&text) {
            image.repo_tags.push(text);
        }
        self.store.save(image)?;
        Ok(found.id.clone())
    }

    /// Removes an image with all its names. What is not there is removed already.
    ///
    /// # Errors
    ///
    /// `Invalid` for no reference, `Ambiguous` for a shortened id of several.
    pub fn remove(&self, text: &str) -> Result<(), Error> {
        let image = match self.get(text) {
            Ok(image) => image,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut table = self.table();
        self.store.remove::<Image>(&image.id)?;
        table.remove(&image.id);
        Ok(())
    }
}

fn parse(text: &str) -> Result<Reference, Error> {
    Reference::parse(text).map_err(|error| Error::Invalid(error.to_string()))
}
