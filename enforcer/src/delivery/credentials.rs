//! Who the agent is to a registry: a file as `docker login` writes it, which is also what a pull secret
//! of Kubernetes holds (`.dockerconfigjson`).

use std::{fs::File, io, path::PathBuf};

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use oci_client::secrets::RegistryAuth;

/// The file. It is read each time: kubelet changes it when the secret changes.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub path: PathBuf,
}

/// Why the file does not help.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("cannot read credentials `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("credentials `{path}` cannot be used for `{registry}`")]
    Content {
        path: PathBuf,
        registry: String,
        #[source]
        source: CredentialRetrievalError,
    },
    #[error(
        "credentials `{path}` have an identity token for `{registry}`, which agents cannot use: log in with a name and a password"
    )]
    Token { path: PathBuf, registry: String },
}

impl Credentials {
    /// What to say to a registry. One that the file does not name is asked as nobody.
    pub(super) fn of(&self, registry: &str) -> Result<RegistryAuth, CredentialsError> {
        let path = self.path.clone();
        let file = File::open(&path).map_err(|source| CredentialsError::Read {
            path: path.clone(),
            source,
        })?;
        let registry = registry.to_owned();
        match get_credential_from_reader(io::BufReader::new(file), &registry) {
            Ok(DockerCredential::UsernamePassword(name, password)) => {
                Ok(RegistryAuth::Basic(name, password))
            }
            Ok(DockerCredential::IdentityToken(_)) => {
                Err(CredentialsError::Token { path, registry })
            }
            Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(RegistryAuth::Anonymous),
            Err(source) => Err(CredentialsError::Content {
                path,
                registry,
                source,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_secret_names_who_asks_a_registry_and_others_are_asked_as_nobody() {
        let folder = tempfile::tempdir().expect("a folder");
        let credentials = Credentials {
            path: folder.path().join(".dockerconfigjson"),
        };
        assert!(credentials.of("a.example").is_err(), "there is no file yet");
        // reader:secret
        let text = r#"{"auths": {"a.example": {"auth": "cmVhZGVyOnNlY3JldA=="},
            "b.example": {"identitytoken": "x"}}}"#;
        std::fs::write(&credentials.path, text).expect("a file");
        let known = credentials.of("a.example").expect("it is known");
        assert_eq!(known, RegistryAuth::Basic("reader".into(), "secret".into()));
        let unknown = credentials.of("c.example").expect("it is not known");
        assert_eq!(unknown, RegistryAuth::Anonymous);
        let token = credentials.of("b.example");
        assert!(matches!(token, Err(CredentialsError::Token { .. })));
    }
}
