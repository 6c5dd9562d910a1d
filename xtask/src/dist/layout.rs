//! An image as the OCI lays it out in a folder: `skopeo copy oci:target/dist/image:VERSION ...` takes it
//! to a registry.

use std::{collections::HashMap, fs, path::Path, str::FromStr};

use anyhow::{Context, Result};
use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, DescriptorBuilder, ImageConfigurationBuilder,
    ImageIndexBuilder, ImageManifestBuilder, MediaType, OciLayoutBuilder, Os, PlatformBuilder,
    RootFsBuilder, SCHEMA_VERSION, Sha256Digest,
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{VERSION, archive::gzip};

/// What the image says of itself.
const LABELS: [(&str, &str); 4] = [
    ("org.opencontainers.image.title", "enforcer"),
    (
        "org.opencontainers.image.description",
        "Enforces Istio's AuthorizationPolicy in the kernel of a node",
    ),
    ("org.opencontainers.image.licenses", "Apache-2.0 OR MIT"),
    ("org.opencontainers.image.version", VERSION),
];
/// Times are left out of all that is built.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// Writes an image of layers, each an archive, the lowest first.
///
/// # Errors
/// When the folder cannot be written.
pub fn write(folder: &Path, layers: &[Vec<u8>]) -> Result<()> {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", blobs.display()))?;
    let mut descriptors = Vec::new();
    let mut contents = Vec::new();
    for layer in layers {
        contents.push(format!("sha256:{}", sha256(layer)));
        descriptors.push(blob(&blobs, MediaType::ImageLayerGzip, &gzip(layer)?)?);
    }
    let config = ImageConfigurationBuilder::default()
        .created(CREATED)
        .architecture(Arch::Amd64)
        .os(Os::Linux)
        .config(
            ConfigBuilder::default()
                .user("0:0")
                .env(["PATH=/usr/bin".to_owned()])
                .entrypoint(["/usr/bin/enforcer".to_owned()])
                .working_dir("/")
                .labels(labels())
                .build()?,
        )
        .rootfs(
            RootFsBuilder::default()
                .typ("layers")
                .diff_ids(contents)
                .build()?,
        )
        .build()?;
    let config = blob(&blobs, MediaType::ImageConfig, &json(&config)?)?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(descriptors)
        .annotations(labels())
        .build()?;
    let manifest = blob(&blobs, MediaType::ImageManifest, &json(&manifest)?)?;
    let named = DescriptorBuilder::default()
        .media_type(MediaType::ImageManifest)
        .digest(manifest.digest().clone())
        .size(manifest.size())
        .platform(
            PlatformBuilder::default()
                .architecture(Arch::Amd64)
                .os(Os::Linux)
                .build()?,
        )
        .annotations(HashMap::from([(
            "org.opencontainers.image.ref.name".to_owned(),
            VERSION.to_owned(),
        )]))
        .build()?;
    let index = ImageIndexBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageIndex)
        .manifests([named])
        .build()?;
    fs::write(folder.join("index.json"), json(&index)?)?;
    let layout = OciLayoutBuilder::default()
        .image_layout_version("1.0.0")
        .build()?;
    fs::write(folder.join("oci-layout"), json(&layout)?)?;
    Ok(())
}

fn labels() -> HashMap<String, String> {
    LABELS
        .map(|(name, value)| (name.into(), value.into()))
        .into()
}

fn blob(folder: &Path, kind: MediaType, bytes: &[u8]) -> Result<Descriptor> {
    let digest = sha256(bytes);
    fs::write(folder.join(&digest), bytes).context("cannot write a part of the image")?;
    let digest = Sha256Digest::from_str(&digest)?;
    Ok(Descriptor::new(kind, u64::try_from(bytes.len())?, digest))
}

/// With its keys in order: the types hold hash maps, whose order is another each time.
fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let ordered = serde_json::to_value(value)?;
    Ok(serde_json::to_vec(&ordered)?)
}

/// In hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
