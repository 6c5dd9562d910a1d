//! A bundle as an artifact in a registry: a manifest with one layer, which is the bundle as it is. The
//! digests of manifest and layer are checked, and the bundle's own signature after that.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    manifest::{IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciImageManifest},
    secrets::RegistryAuth,
};
use tokio::io::AsyncWrite;

use super::{BYTES_MAX, Credentials, CredentialsError, Fetched, News, source::OciPlace};

/// Manifests that are understood.
const MANIFESTS: [&str; 2] = [OCI_IMAGE_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE];

pub(super) struct OciWatch {
    place: OciPlace,
    /// Made anew after a failure: it remembers logins, also those that have ceased to be good.
    client: Option<Client>,
    credentials: Option<Credentials>,
    /// Digest of the manifest that came last.
    known: Option<String>,
}

/// Why a registry sends no bundle.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    #[error("cannot make a client of registries")]
    Client {
        #[source]
        source: OciDistributionError,
    },
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(
        "`{place}` cannot be had: the registry does not know us, --bundle-credentials says who we are"
    )]
    Unauthorized {
        place: String,
        #[source]
        source: OciDistributionError,
    },
    #[error("`{place}` cannot be had")]
    Pull {
        place: String,
        #[source]
        source: OciDistributionError,
    },
    #[error("`{place}` has a manifest that cannot be read")]
    Manifest {
        place: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("`{place}` has {layers} layers, and an artifact that is a bundle has one")]
    Layers { place: String, layers: usize },
    #[error("`{place}` is of {bytes} bytes: a bundle has at most {BYTES_MAX}")]
    Size { place: String, bytes: i64 },
}

impl OciWatch {
    pub fn of(place: &OciPlace, credentials: Option<Credentials>) -> Self {
        Self {
            place: place.clone(),
            client: None,
            credentials,
            known: None,
        }
    }

    fn client(&self) -> Result<Client, OciError> {
        // Whoever is first decides for the process; all of ours decide the same.
        let _decided = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let place = &self.place;
        let registry = place.reference.resolve_registry().to_owned();
        let protocol = match place.plain {
            true => ClientProtocol::HttpsExcept(vec![registry]),
            false => ClientProtocol::Https,
        };
        let config = ClientConfig {
            protocol,
            platform_resolver: None,
            connect_timeout: Some(std::time::Duration::from_secs(10)),
            read_timeout: Some(std::time::Duration::from_secs(30)),
            user_agent: concat!("enforcer/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        Client::try_from(config).map_err(|source| OciError::Client { source })
    }

    /// What a digest names never changes.
    pub fn is_final(&self) -> bool {
        self.known.is_some() && self.place.reference.digest().is_some()
    }

    pub async fn look(&mut self) -> Result<News, OciError> {
        let client = match self.client.take() {
            Some(client) => client,
            None => self.client()?,
        };
        let news = self.look_through(&client).await?;
        self.client = Some(client);
        Ok(news)
    }

    async fn look_through(&mut self, client: &Client) -> Result<News, OciError> {
        let reference = &self.place.reference;
        let auth = match &self.credentials {
            Some(credentials) => credentials.of(reference.resolve_registry())?,
            None => RegistryAuth::Anonymous,
        };
        if self.known.is_some() {
            // A short question, which most of the time is all.
            let now = client.fetch_manifest_digest(reference, &auth).await;
            let now = now.map_err(|error| self.failed(error))?;
            if self.known.as_ref() == Some(&now) {
                return Ok(News::Same);
            }
        }
        let (bytes, digest) = self.pull(client, reference, &auth).await?;
        self.known = Some(digest.clone());
        let pinned = match reference.digest() {
            Some(_) => self.place.to_string(),
            None => format!("{}@{digest}", self.place),
        };
        Ok(News::New(Fetched {
            bytes,
            name: pinned.into(),
        }))
    }

    async fn pull(
        &self,
        client: &Client,
        reference: &Reference,
        auth: &RegistryAuth,
    ) -> Result<(Vec<u8>, String), OciError> {
        let manifest = client.pull_manifest_raw(reference, auth, &MANIFESTS);
        let (manifest, digest) = manifest.await.map_err(|error| self.failed(error))?;
        let manifest: OciImageManifest =
            serde_json::from_slice(&manifest).map_err(|source| OciError::Manifest {
                place: self.place.to_string(),
                source,
            })?;
        let [layer] = &manifest.layers[..] else {
            return Err(OciError::Layers {
                place: self.place.to_string(),
                layers: manifest.layers.len(),
            });
        };
        let most = u64::try_from(layer.size).ok().filter(|n| *n <= BYTES_MAX);
        let most = most.ok_or_else(|| OciError::Size {
            place: self.place.to_string(),
            bytes: layer.size,
        })?;
        let mut bytes = Bounded {
            bytes: Vec::new(),
            most,
        };
        let pulled = client.pull_blob(reference, layer, &mut bytes).await;
        pulled.map_err(|error| self.failed(error))?;
        Ok((bytes.bytes, digest))
    }

    fn failed(&self, source: OciDistributionError) -> OciError {
        let place = self.place.to_string();
        match source {
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_) => {
                OciError::Unauthorized { place, source }
            }
            source => OciError::Pull { place, source },
        }
    }
}

/// Takes no more than was announced.
struct Bounded {
    bytes: Vec<u8>,
    most: u64,
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let most = self.most;
        if (self.bytes.len() + bytes.len()) as u64 > most {
            let why = format!("more than the {most} bytes that the manifest says");
            return Poll::Ready(Err(io::Error::other(why)));
        }
        self.bytes.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
