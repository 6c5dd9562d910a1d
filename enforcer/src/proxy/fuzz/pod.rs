//! A pod that writes down what it is sent, and believes nothing: HTTP/1 is read by the letter of RFC
//! 9112, HTTP/2 by a library.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Response, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// A request as the pod has read it.
#[derive(Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub host: Option<String>,
    /// Names of all headers.
    pub headers: Vec<String>,
}

/// All that was heard: requests, or why the bytes are none.
#[derive(Default)]
pub struct Heard {
    all: Mutex<Vec<Result<Request, String>>>,
    open: AtomicUsize,
    happened: AtomicUsize,
}

impl Heard {
    pub fn take(&self) -> Vec<Result<Request, String>> {
        std::mem::take(&mut *self.all.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Connections that have not ended.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    pub fn happened(&self) -> usize {
        self.happened.load(Ordering::Relaxed)
    }

    fn hear(&self, request: Result<Request, String>) {
        self.happens();
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(request);
    }

    fn happens(&self) {
        self.happened.fetch_add(1, Ordering::Relaxed);
    }
}

/// Listens on loopback.
pub async fn start(heard: Arc<Heard>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            // Ports must not linger: there are more inputs than ports.
            let linger = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            linger.expect("a socket of ours");
            heard.open.fetch_add(1, Ordering::SeqCst);
            let heard = Arc::clone(&heard);
            tokio::spawn(async move {
                // A connection that breaks off is the client's business.
                let _broken = serve(stream, &heard).await;
                heard.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    address
}

async fn serve(stream: TcpStream, heard: &Arc<Heard>) -> io::Result<()> {
    let mut first = [0; 3];
    stream.peek(&mut first).await?;
    if &first == b"PRI" {
        return serve_http2(stream, heard).await;
    }
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                // Between two requests, or broken off because the client was.
                Err(_) => return Ok(()),
            }
        }
        let (request, body) = match parse(&head) {
            Ok(parsed) => parsed,
            Err(why) => {
                heard.hear(Err(why));
                return Ok(());
            }
        };
        let websocket = request.headers.iter().any(|name| name == "upgrade");
        heard.hear(Ok(request));
        match body {
            Body::Length(length) => {
                for _ in 0..length {
                    stream.read_u8().await?;
                }
            }
            Body::Chunked => {
                if let Err(why) = chunks(&mut stream).await? {
                    heard.hear(Err(why));
                    return Ok(());
                }
            }
        }
        heard.happens();
        if websocket {
            let switched = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                upgrade: websocket\r\n\r\n";
            stream.write_all(switched.as_bytes()).await?;
            // What follows was allowed with the handshake.
            while stream.read_u8().await.is_ok() {
                heard.happens();
            }
            return Ok(());
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await?;
    }
}

/// Reads a chunked body to its end, trailers too; or what is wrong with it.
async fn chunks(stream: &mut BufReader<TcpStream>) -> io::Result<Result<(), String>> {
    loop {
        let line = match line(stream).await? {
            Ok(line) => line,
            Err(why) => return Ok(Err(why)),
        };
        let Ok(size) = u64::from_str_radix(&line, 16) else {
            return Ok(Err(format!("a chunk of size {line:?}")));
        };
        for _ in 0..size {
            stream.read_u8().await?;
        }
        if size == 0 {
            break;
        }
        match line_or_end(stream).await? {
            Ok(true) => {}
            Ok(false) => return Ok(Err("a chunk that goes on".into())),
            Err(why) => return Ok(Err(why)),
        }
    }
    loop {
        match line(stream).await? {
            Ok(line) if line.is_empty() => return Ok(Ok(())),
            Ok(line) if line.contains(": ") => {}
            Ok(line) => return Ok(Err(format!("a trailer {line:?}"))),
            Err(why) => return Ok(Err(why)),
        }
    }
}

async fn line_or_end(stream: &mut BufReader<TcpStream>) -> io::Result<Result<bool, String>> {
    let line = line(stream).await?;
    Ok(line.map(|line| line.is_empty()))
}

async fn line(stream: &mut BufReader<TcpStream>) -> io::Result<Result<String, String>> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await?);
    }
    line.truncate(line.len() - 2);
    // RFC 9110, 5.5: bytes above ASCII in a field value are opaque, and legal.
    let text = String::from_utf8(line)
        .unwrap_or_else(|line| line.into_bytes().into_iter().map(char::from).collect());
    let whole = match text.contains(['\r', '\n', '\0']) {
        true => Err(format!("a line {text:?}")),
        false => Ok(text),
    };
    Ok(whole)
}

async fn serve_http2(stream: TcpStream, heard: &Arc<Heard>) -> io::Result<()> {
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let heard = Arc::clone(heard);
        async move {
            let (parts, body) = request.into_parts();
            let target = parts.uri.path_and_query();
            heard.hear(Ok(Request {
                method: parts.method.to_string(),
                target: target.map(ToString::to_string).unwrap_or_default(),
                host: parts.uri.authority().map(ToString::to_string),
                headers: parts.headers.keys().map(ToString::to_string).collect(),
            }));
            // A client that breaks off is answered all the same.
            let _whole = body.collect().await;
            heard.happens();
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
    served.map_err(io::Error::other)
}

enum Body {
    Length(u64),
    Chunked,
}

fn parse(head: &[u8]) -> Result<(Request, Body), String> {
    let text = String::from_utf8_lossy(head);
    let whole = |why: &str| format!("{why}: {text:?}");
    let rest = head.strip_suffix(b"\r\n\r\n").unwrap_or(head);
    let mut lines = Vec::new();
    let mut line = Vec::new();
    for byte in rest {
        line.push(*byte);
        if line.ends_with(b"\r\n") {
            line.truncate(line.len() - 2);
            lines.push(std::mem::take(&mut line));
        }
    }
    lines.push(line);
    let broken = |line: &Vec<u8>| line.iter().any(|b| b"\r\n\0".contains(b));
    if lines.iter().any(broken) {
        return Err(whole("a line"));
    }
    let mut lines = lines.into_iter();
    let first = lines.next().unwrap_or_default();
    let first = std::str::from_utf8(&first).map_err(|_| whole("the first line"))?;
    let words: Vec<&str> = first.split(' ').collect();
    let [method, target, "HTTP/1.1" | "HTTP/1.0"] = words[..] else {
        return Err(whole("the first line"));
    };
    let (mut hosts, mut lengths, mut encodings) = (Vec::new(), Vec::new(), Vec::new());
    let mut headers = Vec::new();
    for line in lines {
        let colon = line.iter().position(|b| *b == b':');
        let (name, value) = colon
            .and_then(|at| line.split_at_checked(at))
            .ok_or_else(|| whole("a line"))?;
        let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        if name.is_empty() || !name.iter().all(is_token) {
            return Err(whole("a name"));
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let value =
            String::from_utf8_lossy(value.get(1..).unwrap_or(b"").trim_ascii()).into_owned();
        match &*name {
            "host" => hosts.push(value),
            "content-length" => lengths.push(value.parse().map_err(|_| whole("a length"))?),
            "transfer-encoding" => encodings.push(value),
            _ => {}
        }
        headers.push(name);
    }
    if hosts.len() > 1 {
        return Err(whole("the hosts"));
    }
    let body = match (&lengths[..], &encodings[..]) {
        ([], []) => Body::Length(0),
        ([length], []) => Body::Length(*length),
        ([], [encoding]) if encoding == "chunked" => Body::Chunked,
        _ => return Err(whole("the framing")),
    };
    let request = Request {
        method: method.into(),
        target: target.into(),
        host: hosts.pop(),
        headers,
    };
    Ok((request, body))
}
