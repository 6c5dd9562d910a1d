//! Runs `enforcer` in one agent's container: whole answers, and answers that go on.

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api, Error,
    api::{AttachParams, AttachedProcess},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

use super::Fleet;

/// Most bytes of one answer, and of what is said beside it.
const ANSWER_MAX: u64 = 64 << 20;
const ASIDE_MAX: u64 = 64 << 10;
/// What is on its way from one agent, in bytes.
const BUFFER: usize = 64 << 10;

/// What a command has said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    pub out: String,
    /// What it said on standard error.
    pub aside: String,
    pub code: i32,
}

/// Why an agent does not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(
        "not allowed: you need the verbs get and create on pods/exec in namespace `{namespace}` ({message})"
    )]
    Forbidden { namespace: String, message: String },
    #[error("its pod `{0}` is gone")]
    Gone(String),
    #[error("cannot run anything in its pod `{pod}`")]
    Exec {
        pod: String,
        #[source]
        source: Box<Error>,
    },
    #[error("it did not answer within {0} s")]
    Silent(u64),
    #[error("its answer broke off")]
    Broken,
    #[error("its answer is longer than {0} bytes")]
    TooLong(u64),
    #[error("its answer cannot be read")]
    Read(#[from] std::io::Error),
    #[error("{0}")]
    Failed(String),
}

impl Fleet {
    /// Runs a command in an agent's container and waits for what it says.
    pub async fn ask(&self, pod: &str, command: &[String]) -> Result<Said, AskError> {
        let patience = self.reach.patience;
        timeout(patience, self.whole(pod, command))
            .await
            .map_err(|_| AskError::Silent(patience.as_secs()))?
    }

    /// Begins a command that goes on until its standard input ends, or the connection does.
    pub async fn begin(&self, pod: &str, command: &[String]) -> Result<AttachedProcess, AskError> {
        let patience = self.reach.patience;
        timeout(patience, self.exec(pod, command, true))
            .await
            .map_err(|_| AskError::Silent(patience.as_secs()))?
    }

    async fn whole(&self, pod: &str, command: &[String]) -> Result<Said, AskError> {
        let mut process = self.exec(pod, command, false).await?;
        let ended = process.take_status();
        let (out, aside) = (process.stdout(), process.stderr());
        let (out, aside) = tokio::try_join!(text(out, ANSWER_MAX), text(aside, ASIDE_MAX))?;
        let status = match ended {
            Some(ended) => ended.await,
            None => None,
        };
        let code = code(status.ok_or(AskError::Broken)?)?;
        Ok(Said { out, aside, code })
    }

    async fn exec(
        &self,
        pod: &str,
        command: &[String],
        lasting: bool,
    ) -> Result<AttachedProcess, AskError> {
        let namespace = &self.reach.namespace;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let params = AttachParams::default()
            .container(&self.reach.container)
            .stdin(lasting)
            .max_stdout_buf_size(BUFFER);
        let begun = api.exec(pod, command.iter().map(String::as_str), &params);
        begun.await.map_err(|error| match error {
            Error::Api(status) if status.code == 403 => AskError::Forbidden {
                namespace: namespace.clone(),
                message: status.message.clone(),
            },
            Error::Api(status) if status.code == 404 => AskError::Gone(pod.into()),
            source => AskError::Exec {
                pod: pod.into(),
                source: Box::new(source),
            },
        })
    }
}

async fn text(from: Option<impl AsyncRead + Unpin>, max: u64) -> Result<String, AskError> {
    let Some(from) = from else {
        return Ok(String::new());
    };
    let mut bytes = Vec::new();
    from.take(max + 1).read_to_end(&mut bytes).await?;
    if bytes.len() as u64 > max {
        return Err(AskError::TooLong(max));
    }
    String::from_utf8(bytes).map_err(|error| AskError::Read(std::io::Error::other(error)))
}

/// The exit status that the API server tells of.
pub fn code(status: Status) -> Result<i32, AskError> {
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.as_ref().and_then(|d| d.causes.as_ref());
    let code = causes
        .into_iter()
        .flatten()
        .find(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .and_then(|cause| cause.message.as_ref()?.parse().ok());
    code.ok_or_else(|| {
        let message = status.message.or(status.reason);
        AskError::Failed(message.unwrap_or_else(|| "the API server gave no reason".into()))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_exit_status_is_told_from_a_command_that_never_ran() {
        let of = |status| code(serde_json::from_value(status).expect("a status"));
        assert_eq!(of(json!({ "status": "Success" })).expect("it ran"), 0);
        let two = json!({ "status": "Failure", "reason": "NonZeroExitCode", "message": "exit 2",
            "details": { "causes": [{ "reason": "ExitCode", "message": "2" }] } });
        assert_eq!(of(two).expect("it ran"), 2);
        let never = json!({ "status": "Failure", "reason": "InternalError",
            "message": "no such file: enforcer" });
        let error = of(never).expect_err("it did not run").to_string();
        assert_eq!(error, "no such file: enforcer");
    }
}
