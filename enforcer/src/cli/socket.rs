//! The client's end of the control socket.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use crate::control::{Answer, Request};

/// A connection to a running agent.
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

/// What can go wrong on the way to the agent.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "no agent listens on `{path}`: is `enforcer run` running, and was it given another --socket?"
    )]
    Absent { path: PathBuf },
    #[error("only root may talk to the agent on `{path}`")]
    Forbidden { path: PathBuf },
    #[error("the conversation with the agent on `{path}` broke off")]
    Broken {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Refused(String),
}

impl Client {
    /// Connects to the agent.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        match UnixStream::connect(path) {
            Ok(stream) => Ok(Self {
                path: path.into(),
                stream: BufReader::new(stream),
            }),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Err(ClientError::Absent { path: path.into() })
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(ClientError::Forbidden { path: path.into() })
            }
            Err(source) => Err(ClientError::Broken {
                path: path.into(),
                source,
            }),
        }
    }

    /// Asks, and waits for the answer. An answer that says no is an error.
    pub fn ask(&mut self, request: &Request) -> Result<Answer, ClientError> {
        let mut line = serde_json::to_vec(request)
            .map_err(io::Error::other)
            .map_err(|source| self.broken(source))?;
        line.push(b'\n');
        self.stream
            .get_mut()
            .write_all(&line)
            .map_err(|source| self.broken(source))?;
        let answer = self
            .line()?
            .ok_or_else(|| self.broken(io::ErrorKind::UnexpectedEof.into()))?;
        match serde_json::from_str(&answer) {
            Ok(Answer::Error(message)) => Err(ClientError::Refused(message)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.broken(io::Error::other(error))),
        }
    }

    /// The next line that the agent sends, or `None` when it has gone.
    pub fn line(&mut self) -> Result<Option<String>, ClientError> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(line)),
            Err(source) => Err(self.broken(source)),
        }
    }

    /// An answer that does not fit the question.
    pub fn unexpected(&self) -> ClientError {
        self.broken(io::Error::other("the agent is of another version"))
    }

    fn broken(&self, source: io::Error) -> ClientError {
        ClientError::Broken {
            path: self.path.clone(),
            source,
        }
    }
}
