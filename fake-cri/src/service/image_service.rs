//! The CRI's ImageService.

use std::sync::Arc;

use cri_proto::runtime::v1::{self, image_service_server::ImageService};
use tonic::{Request, Response, Status};

use super::translate;
use crate::runtime::{Runtime, RuntimeError};

type ImageRpcResult<T> = Result<Response<T>, Status>;

/// Implements the ImageService.
#[derive(Clone, Debug)]
pub struct ImageApi {
    runtime: Arc<Runtime>,
}

impl ImageApi {
    /// Creates a service for a runtime.
    pub fn new(runtime: Arc<Runtime>) -> ImageApi {
        ImageApi { runtime }
    }

    /// Returns the images that match a filter. Without a match the list is empty; this is not an error.
    fn list_matching(&self, filter: Option<v1::ImageFilter>) -> Vec<v1::Image> {
        let spec = filter.and_then(|filter| filter.image);
        let images = match spec.filter(|spec| !spec.image.is_empty()) {
            None => self.runtime.images.list(),
            Some(spec) => self.runtime.images.get(&spec.image).into_iter().collect(),
        };
        images.iter().map(translate::image).collect()
    }
}

/// The number of images in a message of a streamed list, whose size is far below the limit of a gRPC message.
const STREAM_CHUNK_IMAGES: usize = 256;

fn require_image_name(spec: Option<v1::ImageSpec>) -> Result<String, Status> {
    match spec {
        Some(spec) if !spec.image.is_empty() => Ok(spec.image),
        _ => Err(RuntimeError::InvalidArgument("the request has no image".to_owned()).into()),
    }
}

#[tonic::async_trait]
impl ImageService for ImageApi {
    async fn list_images(&self, request: Request<v1::ListImagesRequest>) -> ImageRpcResult<v1::ListImagesResponse> {
        Ok(Response::new(v1::ListImagesResponse {
            images: self.list_matching(request.into_inner().filter),
        }))
    }

    async fn image_status(&self, request: Request<v1::ImageStatusRequest>) -> ImageRpcResult<v1::ImageStatusResponse> {
        let request = request.into_inner();
        match self.runtime.images.get(&require_image_name(request.image)?) {
            Ok(image) => Ok(Response::new(v1::ImageStatusResponse {
                image: Some(translate::image(&image)),
                info: match request.verbose {
                    true => translate::image_info(&image),
                    false => Default::default(),
                },
            })),
            // The CRI requires a response without an image, not an error, if the image does not exist.
            Err(RuntimeError::NotFound { .. }) => Ok(Response::new(Default::default())),
            Err(error) => Err(error.into()),
        }
    }

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> ImageRpcResult<v1::PullImageResponse> {
        let image_ref = self
            .runtime
            .images
            .pull(&require_image_name(request.into_inner().image)?)
            .await?;
        Ok(Response::new(v1::PullImageResponse { image_ref }))
    }

    async fn remove_image(&self, request: Request<v1::RemoveImageRequest>) -> ImageRpcResult<v1::RemoveImageResponse> {
        self.runtime
            .images
            .remove(&require_image_name(request.into_inner().image)?)?;
        Ok(Response::new(Default::default()))
    }

    async fn image_fs_info(&self, _: Request<v1::ImageFsInfoRequest>) -> ImageRpcResult<v1::ImageFsInfoResponse> {
        let images = translate::image_filesystem(&self.runtime);
        Ok(Response::new(v1::ImageFsInfoResponse {
            container_filesystems: vec![images.clone()],
            image_filesystems: vec![images],
        }))
    }

    type StreamImagesStream = tokio_stream::Iter<std::vec::IntoIter<Result<v1::StreamImagesResponse, Status>>>;

    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> ImageRpcResult<Self::StreamImagesStream> {
        let images = self.list_matching(request.into_inner().filter);
        let chunks: Vec<_> = images
            .chunks(STREAM_CHUNK_IMAGES)
            .map(|chunk| Ok(v1::StreamImagesResponse { images: chunk.to_vec() }))
            .collect();
        Ok(Response::new(tokio_stream::iter(chunks)))
    }
}
