//! The access log: one JSON object a line for each request, and for each connection without requests,
//! once it is over. A thread of its own writes; where it cannot keep up, lines are lost and counted,
//! and no request waits.

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use serde::{Deserialize, Serialize};

use super::{Peer, Verdict};

/// Lines that wait to be written.
const WAITING_MAX: usize = 16_384;

/// One request or connection, from its beginning to its end.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AccessLine {
    /// RFC 3339, UTC: when it was over.
    pub time: String,
    pub src: Peer,
    pub src_ip: IpAddr,
    pub src_port: u16,
    /// What the source's certificate would say, `<trust domain>/ns/<namespace>/sa/<account>`.
    pub src_principal: Option<String>,
    pub dst: Peer,
    pub dst_ip: IpAddr,
    pub port: u16,
    /// `http`, `tls` or `tcp`
    pub protocol: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// As the client sent it, query included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// TLS server name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// `allow` where it was carried to its end.
    pub verdict: Verdict,
    /// As `monitor` names it.
    pub reason: Option<String>,
    /// `namespace/name`
    pub policy: Option<String>,
    /// Counted from 0.
    pub rule: Option<u32>,
    /// A change of policy has ended it.
    pub broken_off: bool,
    /// Bytes of bodies, or of the connection.
    pub received: u64,
    pub sent: u64,
    /// From its beginning to its end.
    pub duration_us: u64,
    /// Activation that judged.
    pub epoch: Option<u32>,
}

/// Where accesses are written.
pub struct AccessLog {
    lines: SyncSender<String>,
    lost: Arc<AtomicU64>,
}

/// Why there is no access log.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the access log `{path}`")]
pub struct AccessLogError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl AccessLog {
    /// Appends to a file; `-` is standard output.
    pub fn open(path: &Path) -> Result<Self, AccessLogError> {
        let failed = |source| AccessLogError {
            path: path.into(),
            source,
        };
        let to: Box<dyn Write + Send> = match path.as_os_str() == "-" {
            true => Box::new(io::stdout()),
            false => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                Box::new(file.map_err(failed)?)
            }
        };
        let (lines, waiting) = sync_channel(WAITING_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let losing = Arc::clone(&lost);
        let thread = thread::Builder::new().name("access-log".into());
        let spawned = thread.spawn(move || write(&waiting, BufWriter::new(to), &losing));
        spawned.map_err(failed)?;
        Ok(Self { lines, lost })
    }

    /// Writes a line, soon.
    pub fn write(&self, line: &AccessLine) {
        let text = serde_json::to_string(line);
        let waits = text.is_ok_and(|text| self.lines.try_send(text).is_ok());
        if !waits {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were not written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

fn write(waiting: &Receiver<String>, mut to: BufWriter<Box<dyn Write + Send>>, lost: &AtomicU64) {
    let mut complained = false;
    while let Ok(first) = waiting.recv() {
        let mut next = Some(first);
        let mut count = 0;
        let mut written = Ok(());
        while let Some(line) = next {
            count += 1;
            written = written.and_then(|()| writeln!(to, "{line}"));
            next = waiting.try_recv().ok();
        }
        // Whoever follows the file wants to see what has happened, not what fills a buffer.
        if let Err(error) = written.and_then(|()| to.flush()) {
            lost.fetch_add(count, Ordering::Relaxed);
            if !complained {
                complained = true;
                tracing::error!(%error, "the access log cannot be written");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn lines_are_json_and_there_soon() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.log");
        let log = AccessLog::open(&path).expect("a file of its own");
        let line = AccessLine {
            time: "2026-01-01T00:00:00Z".into(),
            src: Peer::Pod("a/b".into()),
            src_ip: [10, 0, 0, 1].into(),
            src_port: 4,
            src_principal: Some("cluster.local/ns/a/sa/b".into()),
            dst: Peer::Ip {
                ip: [10, 0, 0, 2].into(),
            },
            dst_ip: [10, 0, 0, 2].into(),
            port: 80,
            protocol: "http".into(),
            method: Some("GET".into()),
            path: Some("/".into()),
            host: None,
            request_id: None,
            sni: None,
            status: Some(200),
            verdict: Verdict::Allow,
            reason: Some("allow_rule".into()),
            policy: Some("a/p".into()),
            rule: Some(0),
            broken_off: false,
            received: 1,
            sent: 2,
            duration_us: 3,
            epoch: Some(1),
        };
        log.write(&line);
        let deadline = Instant::now() + Duration::from_secs(20);
        let text = loop {
            let text = std::fs::read_to_string(&path).expect("it is there");
            if text.ends_with('\n') {
                break text;
            }
            assert!(Instant::now() < deadline, "nothing is written");
            thread::yield_now();
        };
        let read: AccessLine = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read, line);
        assert_eq!(log.lost(), 0);
        assert!(
            AccessLog::open(folder.path()).is_err(),
            "a folder is no file"
        );
    }
}
