//! Images: pulled from the [`Catalogue`], saved in the store, found by id, digest, tag or short name.

mod catalogue;
mod reference;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use serde::{Deserialize, Serialize};

use self::reference::{is_digest, is_hex};
pub use self::{
    catalogue::{Catalogue, CatalogueEntry, PullBehaviour, ResolvedImage},
    reference::{ImageReference, ImageVersion, ReferenceError},
};
use super::{
    clock::now,
    error::{ObjectKind, RuntimeError},
    store::{Store, StoredObject},
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
    /// The executable and its first arguments.
    pub entrypoint: Vec<String>,
    /// The default arguments.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The working directory.
    pub working_dir: String,
    /// The stop signal: a name such as `SIGQUIT`.
    pub stop_signal: Option<String>,
    /// Whether the kubelet must not garbage-collect the image.
    pub pinned: bool,
    /// Time of the first pull, in nanoseconds since the epoch.
    pub pulled_at: i64,
}

impl StoredObject for Image {
    const DIR_NAME: &'static str = "images";

    fn id(&self) -> &str {
        &self.id
    }
}

/// The pulled images.
#[derive(Debug)]
pub struct ImageStore {
    store: Arc<Store>,
    catalogue: Catalogue,
    images: Mutex<BTreeMap<String, Image>>,
}

impl ImageStore {
    /// Loads the images of the store and adds the preloaded images of the catalogue.
    ///
    /// # Errors
    ///
    /// `Store` if a file cannot be read or written; `InvalidArgument` if the reference of a preloaded image is invalid.
    pub fn open(store: Arc<Store>, catalogue: Catalogue) -> Result<ImageStore, RuntimeError> {
        let stored = store.load::<Image>()?;
        let images = ImageStore {
            store,
            catalogue,
            images: Mutex::new(stored.into_iter().map(|image| (image.id.clone(), image)).collect()),
        };
        for text in images.catalogue.preloaded() {
            let reference = parse_reference(text)?;
            if let Some(resolved) = images.catalogue.find(&reference) {
                images.add(&reference, &resolved)?;
            }
        }
        Ok(images)
    }

    fn lock_images(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Image>> {
        self.images.lock().expect("no holder of this lock panics")
    }

    /// Returns all pulled images, sorted by id.
    pub fn list(&self) -> Vec<Image> {
        self.lock_images().values().cloned().collect()
    }

    /// Finds a pulled image by its id (with or without `sha256:`), a unique prefix of the id (at least 4 digits), or a
    /// reference.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an invalid reference; `AmbiguousId` for a prefix of several ids; `NotFound` if no such
    /// image was pulled.
    pub fn get(&self, text: &str) -> Result<Image, RuntimeError> {
        if text.is_empty() {
            return Err(RuntimeError::InvalidArgument("the image reference is empty".to_owned()));
        }
        let table = self.lock_images();
        if is_digest(text) {
            return table
                .get(text)
                .cloned()
                .ok_or_else(|| RuntimeError::not_found(ObjectKind::Image, text));
        }
        let reference = ImageReference::parse(text);
        if let Ok(reference) = &reference {
            let normalized = reference.to_string();
            let has_name =
                |image: &&Image| image.repo_tags.contains(&normalized) || image.repo_digests.contains(&normalized);
            if let Some(image) = table.values().find(has_name) {
                return Ok(image.clone());
            }
        }
        // A shortened id, as command lines show it. Names come first, because a name may consist of hexadecimal digits.
        if is_hex(text) && text.len() >= 4 {
            let prefix = format!("sha256:{text}");
            let mut candidates = table.values().filter(|image| image.id.starts_with(&prefix));
            match (candidates.next(), candidates.count()) {
                (Some(image), 0) => return Ok(image.clone()),
                (Some(_), others) => {
                    return Err(RuntimeError::AmbiguousId {
                        kind: ObjectKind::Image,
                        id: text.to_owned(),
                        count: others + 1,
                    });
                }
                (None, _) => {}
            }
        }
        match reference {
            Err(error) if !is_hex(text) => Err(RuntimeError::InvalidArgument(error.to_string())),
            _ => Err(RuntimeError::not_found(ObjectKind::Image, text)),
        }
    }

    /// Pulls an image as the catalogue defines and returns its id. Dropping the future cancels the pull.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an invalid reference; `Pull` if the catalogue requests a failure or, in strict mode, has
    /// no entry.
    pub async fn pull(&self, text: &str) -> Result<String, RuntimeError> {
        // The kubelet may pull an image by the id that ImageStatus returned before.
        if is_digest(text) {
            return self.get(text).map(|image| image.id);
        }
        let reference = parse_reference(text)?;
        let failed = |message: String, not_found| RuntimeError::Pull {
            image: reference.to_string(),
            message,
            not_found,
        };
        let Some(resolved) = self.catalogue.find(&reference) else {
            return Err(failed(
                "not in the catalogue, and --strict-images is set".to_owned(),
                true,
            ));
        };
        if !resolved.entry.pull.delay.is_zero() {
            tokio::time::sleep(resolved.entry.pull.delay).await;
        }
        if let Some(message) = &resolved.entry.pull.fail {
            return Err(failed(message.clone(), false));
        }
        self.add(&reference, &resolved)
    }

    /// Adds an image under a reference. A tag moves from the image that had it before.
    fn add(&self, reference: &ImageReference, resolved: &ResolvedImage) -> Result<String, RuntimeError> {
        let mut table = self.lock_images();
        let text = reference.to_string();
        if let ImageVersion::Tag(_) = reference.version {
            for image in table.values_mut() {
                if image.id != resolved.id && image.repo_tags.contains(&text) {
                    image.repo_tags.retain(|tag| *tag != text);
                    self.store.save(image)?;
                }
            }
        }
        let entry = &resolved.entry;
        let image = table.entry(resolved.id.clone()).or_insert_with(|| Image {
            id: resolved.id.clone(),
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            size: resolved.size,
            user: entry.user.clone(),
            entrypoint: entry.entrypoint.clone(),
            cmd: entry.cmd.clone(),
            env: entry.env.clone(),
            working_dir: entry.working_dir.clone(),
            stop_signal: entry.stop_signal.clone(),
            pinned: entry.pinned,
            pulled_at: now(),
        });
        let digest = format!("{}@{}", reference.name, resolved.digest);
        if !image.repo_digests.contains(&digest) {
            image.repo_digests.push(digest);
        }
        if matches!(reference.version, ImageVersion::Tag(_)) && !image.repo_tags.contains(&text) {
            image.repo_tags.push(text);
        }
        self.store.save(image)?;
        Ok(resolved.id.clone())
    }

    /// Removes an image with all its names. Succeeds if the image does not exist.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an invalid reference; `AmbiguousId` for a prefix of several ids; `Store` if the file
    /// cannot be removed.
    pub fn remove(&self, text: &str) -> Result<(), RuntimeError> {
        let image = match self.get(text) {
            Ok(image) => image,
            Err(RuntimeError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut table = self.lock_images();
        self.store.remove::<Image>(&image.id)?;
        table.remove(&image.id);
        Ok(())
    }
}

fn parse_reference(text: &str) -> Result<ImageReference, RuntimeError> {
    ImageReference::parse(text).map_err(|error| RuntimeError::InvalidArgument(error.to_string()))
}
